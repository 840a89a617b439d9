//! Follows the leases of any datastore, and retries after failures with growing pauses.
//!
//! An outage is logged when it begins and when it ends. A refusal during an outage is logged as well.

use std::time::Duration;

use tokio::sync::mpsc;

use super::backoff::Backoff;
use super::manager::LeaseUpdate;
use crate::metrics::{FailureKind, METRICS};
use crate::report::REPORT;

/// Pause after a failure, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Receives the updates of a watch.
pub(super) type Updates = mpsc::Sender<LeaseUpdate>;

/// A datastore that reports changes of its leases.
pub(super) trait Follow: Sync {
    /// Sends a snapshot and then changes until `updates` is closed. Calls [`Outage::end`] once this works.
    fn follow(
        &self,
        updates: &Updates,
        outage: &mut Outage,
    ) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Returns whether the datastore has answered and refuses, so that an operator must act.
    fn is_refusal(&self, _error: &anyhow::Error) -> bool {
        false
    }
}

/// See [`SubnetManager::watch`](super::SubnetManager::watch).
pub(super) async fn watch(store: &impl Follow, updates: Updates) {
    let mut outage = Outage::none();
    let follow = async {
        while let Err(error) = store.follow(&updates, &mut outage).await {
            outage.begin(&error, store.is_refusal(&error));
            outage.pause().await;
        }
    };
    tokio::select! {
        () = follow => {}
        () = updates.closed() => {}
    }
}

/// A time without a working watch.
pub(super) struct Outage {
    backoff: Backoff,
    ongoing: bool,
    refused: bool,
}

impl Outage {
    fn none() -> Self {
        Self { backoff: Backoff::new(PAUSE.0, PAUSE.1), ongoing: false, refused: false }
    }

    /// Reports the first failure and the first refusal of an outage; others only at debug level.
    fn begin(&mut self, error: &anyhow::Error, refusal: bool) {
        if self.ongoing && (self.refused || !refusal) {
            tracing::debug!("still no watch on the leases: {error:#}");
        } else {
            tracing::warn!("lost the watch on the leases, retrying; routes stay as they are: {error:#}");
        }
        REPORT.datastore_is_away(error);
        METRICS.count_failure(FailureKind::Datastore);
        self.ongoing = true;
        self.refused |= refusal;
    }

    /// Reports that the watch works.
    pub(super) fn end(&mut self) {
        if self.ongoing {
            tracing::info!("watching the leases again");
        }
        REPORT.datastore_answers();
        self.ongoing = false;
        self.refused = false;
        self.backoff.reset();
    }

    async fn pause(&mut self) {
        self.backoff.wait().await;
    }
}
