//! Renewal of the node's own lease.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::info;

use crate::lease::{Loss, OwnLease, SubnetManager};
use crate::metrics::FailureKind;
use crate::problem::{Pace, Problem};

/// The shortest time between renewals.
const SHORTEST: Duration = Duration::from_secs(60);

/// Waits until the lease is due, and renews it. Repeats this until it succeeds or the lease is lost. `due`: `None` is never.
pub(super) async fn renewed(
    store: &impl SubnetManager,
    lease: OwnLease,
    due: Option<Instant>,
) -> Result<OwnLease, Loss> {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
    let over = format!("renewing the lease of {lease} works again");
    let mut problem = Problem::new(FailureKind::Renewal, over, Pace::STEADY);
    loop {
        match store.renew(&lease, &lease.attrs).await {
            Ok(renewed) => {
                problem.solved();
                let kept = if renewed.is_ok() { "renewed" } else { "lost" };
                info!(subnet = %lease, "lease {kept}");
                return renewed;
            }
            Err(error) => _ = problem.failed([format!("renewing the lease of {lease}: {error:#}")]),
        }
        problem.wait().await;
    }
}

/// Returns the time `margin` before the end of the lease; `None` for a reservation.
pub(super) fn due(lease: &OwnLease, margin: Duration) -> Option<Instant> {
    // A margin as long as the lease must not lead to renewals all the time.
    let soonest = Instant::now() + SHORTEST;
    let ends = lease.term?;
    Some(ends.checked_sub(margin).map_or(soonest, |due| due.max(soonest)))
}

#[cfg(test)]
mod tests;
