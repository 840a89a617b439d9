//! A node with a subnet: the leases of the others go into the backend, ours is renewed.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tracing::{debug, error, warn};

use super::renewal::{due, renewed};
use super::{Held, RETRY, state};
use crate::backend::Backend;
use crate::config::NetworkConfig;
use crate::firewall::Firewall;
use crate::lease::set::{LeaseSet, Refusal};
use crate::lease::{LeaseUpdate, OwnLease, PublicIps, Standing, SubnetManager};
use crate::metrics::{FailureKind, METRICS};
use crate::notify;
use crate::uplink::Uplink;

/// How often the kernel's entries are read back and repaired.
const RESYNC: Duration = Duration::from_secs(60);
/// Lease updates in flight between datastore and backend (flanneld's EVENT_QUEUE_DEPTH).
const QUEUE: usize = 5000;

/// How long packets may wait for an answer of the datastore.
const ASKING: Duration = Duration::from_millis(500);

/// Why following ended.
pub(super) enum End {
    /// Why.
    LeaseLost(String),
    UplinkChanged(Uplink, Box<Held>),
}

/// Follows the leases and keeps ours, until ours is lost or `changed` has another uplink.
pub(super) async fn follow(
    store: &impl SubnetManager,
    config: &NetworkConfig,
    backend: &mut impl Backend,
    firewall: &mut Firewall,
    mut lease: OwnLease,
    margin: Duration,
    changed: impl Future<Output = Uplink>,
) -> End {
    let (sender, mut updates) = mpsc::channel(QUEUE);
    let watch = store.watch(sender);
    tokio::pin!(watch, changed);
    let mut leases = LeaseSet::new(config, lease.subnet);
    let us = PublicIps::from(&lease.attrs);
    let mut resync = tokio::time::interval_at(Instant::now() + RESYNC, RESYNC);
    resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
    METRICS.set_lease_end(lease.term);
    METRICS.set_dataplane(backend.name());
    let mut renewal = Box::pin(renewed(store, lease.clone(), due(&lease, margin)));
    let mut repairing = false;
    loop {
        tokio::select! {
            () = &mut watch => return End::LeaseLost("nothing watches it".to_owned()),
            uplink = &mut changed => {
                return End::UplinkChanged(uplink, Box::new(Held { lease, peers: leases.peers() }));
            }
            Some(update) = updates.recv() => {
                take_in(&mut leases, update, &mut updates);
                report(backend.apply(&leases.peers()).await, &mut resync);
                METRICS.leases.set(leases.nodes().try_into().unwrap_or(i64::MAX));
                notify::status(&format!("{}, peers: {}", state(&lease, backend), leases.nodes()));
                match leases.standing(us) {
                    Standing::Held => {}
                    Standing::Spoilt if repairing => {}
                    Standing::Spoilt => {
                        warn!(subnet = %lease, "somebody has spoilt the value of our lease; writing it again");
                        repairing = true;
                        // Whoever is writing the file of a lease gets time to finish.
                        renewal.set(renewed(store, lease.clone(), Some(Instant::now() + RETRY)));
                    }
                    Standing::Lost(loss) => return End::LeaseLost(loss.to_string()),
                }
            }
            () = backend.changed() => {
                report(backend.react(&leases.peers()).await, &mut resync);
                if backend.wants_peers() && catch_up(store, &mut leases).await {
                    report(backend.apply(&leases.peers()).await, &mut resync);
                    report(backend.react(&leases.peers()).await, &mut resync);
                }
            }
            () = firewall.due() => firewall.resync().await,
            _ = resync.tick() => report(backend.resync(&leases.peers()).await, &mut resync),
            kept = &mut renewal => match kept {
                Ok(kept) => {
                    lease = kept;
                    repairing = false;
                    METRICS.set_lease_end(lease.term);
                    renewal.set(renewed(store, lease.clone(), due(&lease, margin)));
                }
                Err(loss) => return End::LeaseLost(loss.to_string()),
            },
        }
    }
}

/// Asks the datastore for what the watch may not have told yet. Returns whether it has answered.
async fn catch_up(store: &impl SubnetManager, leases: &mut LeaseSet) -> bool {
    match timeout(ASKING, store.leases()).await {
        Ok(Ok(all)) => {
            refuse(leases.apply(LeaseUpdate::Snapshot(all)));
            return true;
        }
        Ok(Err(error)) => debug!("asking for a lease that a packet waits for: {error:#}"),
        Err(_) => debug!("the datastore takes too long to answer for a packet that waits"),
    }
    false
}

/// Takes in an update and all that wait behind it, so that a burst is one change of the backend.
fn take_in(leases: &mut LeaseSet, first: LeaseUpdate, more: &mut mpsc::Receiver<LeaseUpdate>) {
    let waiting = std::iter::from_fn(|| more.try_recv().ok());
    for update in std::iter::once(first).chain(waiting) {
        if matches!(update, LeaseUpdate::Snapshot(_)) {
            METRICS.datastore_up.set(1);
        }
        refuse(leases.apply(update));
    }
}

/// Names each bad entry once.
fn refuse(refusals: Vec<Refusal>) {
    for refusal in refusals {
        METRICS.count_failure(FailureKind::Refused);
        warn!("{refusal}");
    }
}

/// Logs what failed and has it tried again soon.
fn report(errors: Vec<anyhow::Error>, resync: &mut tokio::time::Interval) {
    for problem in &errors {
        METRICS.count_failure(FailureKind::Dataplane);
        error!("{problem:#}");
    }
    if !errors.is_empty() {
        resync.reset_after(RETRY);
    }
}
