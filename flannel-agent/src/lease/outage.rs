//! A watch that fails: told once, tried again with growing pauses, told once when it works again.

use std::time::Duration;

use super::backoff::Backoff;
use crate::metrics::{Kind, METRICS};

/// Pause after a failure, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A time without a working watch: reported at its start and at its end.
pub(super) struct Outage {
    backoff: Backoff,
    ongoing: bool,
}

impl Outage {
    /// All is well so far.
    pub(super) fn none() -> Self {
        Self { backoff: Backoff::new(PAUSE.0, PAUSE.1), ongoing: false }
    }

    pub(super) fn failed(&mut self, error: &anyhow::Error) {
        if self.ongoing {
            tracing::debug!("still no watch on the leases: {error:#}");
        } else {
            tracing::warn!("lost the watch on the leases, retrying; routes stay as they are: {error:#}");
        }
        METRICS.datastore_up.set(0);
        METRICS.failed(Kind::Datastore);
        self.ongoing = true;
    }

    pub(super) fn over(&mut self) {
        if self.ongoing {
            tracing::info!("watching the leases again");
        }
        self.ongoing = false;
        self.backoff.reset();
    }

    /// Waits before the next attempt.
    pub(super) async fn wait(&mut self) {
        self.backoff.wait().await;
    }
}
