//! When our lease is renewed, and the renewal itself, beside everything else that the node does: a datastore that
//! hangs must hold up nothing but this.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::RETRY;
use crate::lease::{OwnLease, SubnetManager};
use crate::metrics::{FailureKind, METRICS};

/// The least time between renewals.
const LEAST: Duration = Duration::from_secs(60);

/// Renews the lease `margin` before its end, trying until it works. `None`: it is lost. A reservation is never due.
pub(super) async fn renewed(
    store: &impl SubnetManager,
    lease: OwnLease,
    margin: Duration,
) -> Option<OwnLease> {
    match lease.term {
        Some(ends) => sleep_until(due(ends, margin)).await,
        None => std::future::pending().await,
    }
    let mut told = false;
    loop {
        match store.renew(&lease).await {
            Ok(renewed) => {
                let kept = if renewed.is_some() { "renewed" } else { "lost" };
                info!(subnet = %lease, "lease {kept}");
                return renewed;
            }
            Err(error) if told => debug!("still not renewed, {lease}: {error:#}"),
            Err(error) => warn!("renewing the lease of {lease}: {error:#}; trying again"),
        }
        METRICS.count_failure(FailureKind::Renewal);
        told = true;
        sleep(RETRY).await;
    }
}

fn due(ends: Instant, margin: Duration) -> Instant {
    // A margin as long as the lease must not mean renewing all the time.
    let soonest = Instant::now() + LEAST;
    ends.checked_sub(margin).map_or(soonest, |due| due.max(soonest))
}

#[cfg(test)]
mod tests;
