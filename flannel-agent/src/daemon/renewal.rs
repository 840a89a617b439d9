//! When our lease is renewed, and the renewal itself, beside everything else that the node does: a datastore that
//! hangs must hold up nothing but this.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::RETRY;
use crate::lease::{Loss, OwnLease, SubnetManager};
use crate::metrics::{FailureKind, METRICS};

/// The least time between renewals.
const LEAST: Duration = Duration::from_secs(60);

/// Renews the lease when it is due, trying until it works. Without a time it is never due.
pub(super) async fn renewed(
    store: &impl SubnetManager,
    lease: OwnLease,
    due: Option<Instant>,
) -> Result<OwnLease, Loss> {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
    let mut told = false;
    loop {
        match store.renew(&lease, &lease.attrs).await {
            Ok(renewed) => {
                let kept = if renewed.is_ok() { "renewed" } else { "lost" };
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

/// Returns the time `margin` before the end of the lease; `None` for a reservation.
pub(super) fn due(lease: &OwnLease, margin: Duration) -> Option<Instant> {
    // A margin as long as the lease must not mean renewing all the time.
    let soonest = Instant::now() + LEAST;
    let ends = lease.term?;
    Some(ends.checked_sub(margin).map_or(soonest, |due| due.max(soonest)))
}

#[cfg(test)]
mod tests;
