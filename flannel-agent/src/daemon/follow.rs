//! A node with a subnet: the leases of the others go into the dataplane, ours is renewed.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{error, warn};

use super::renewal::renewed;
use super::{Held, RETRY, state};
use crate::config::NetworkConfig;
use crate::dataplane::Dataplane;
use crate::lease::pick::PublicIps;
use crate::lease::set::LeaseSet;
use crate::lease::{LeaseUpdate, OwnLease, SubnetManager};
use crate::notify;
use crate::uplink::Uplink;

/// How often the kernel's entries are read back and repaired.
const RESYNC: Duration = Duration::from_secs(60);
/// Lease updates in flight between datastore and dataplane (flanneld's EVENT_QUEUE_DEPTH).
const QUEUE: usize = 5000;

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
    dataplane: &mut Dataplane,
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
    let mut renewal = Box::pin(renewed(store, lease.clone(), margin));
    loop {
        tokio::select! {
            () = &mut watch => return End::LeaseLost("nothing watches it".to_owned()),
            uplink = &mut changed => {
                let held = Held { lease, peers: leases.peers(), mac: dataplane.device().mac };
                return End::UplinkChanged(uplink, Box::new(held));
            }
            Some(update) = updates.recv() => {
                take_in(&mut leases, update, &mut updates);
                let peers = leases.peers();
                report(dataplane.apply(&peers).await, &mut resync);
                notify::status(&format!("{}, peers: {}", state(&lease, dataplane), peers.len()));
                match leases.own() {
                    Some(holder) if holder.same_node(&us) => {}
                    Some(holder) => return End::LeaseLost(format!("{holder} has it now")),
                    None => return End::LeaseLost("the datastore no longer has it".to_owned()),
                }
            }
            () = dataplane.pods_changed() => report(dataplane.follow_pods().await, &mut resync),
            _ = resync.tick() => report(dataplane.resync(&leases.peers()).await, &mut resync),
            kept = &mut renewal => match kept {
                Some(kept) => {
                    lease = kept;
                    renewal.set(renewed(store, lease.clone(), margin));
                }
                None => return End::LeaseLost("it could not be renewed any more".to_owned()),
            },
        }
    }
}

/// Takes in an update and all that wait behind it, so that a burst is one change of the dataplane.
fn take_in(leases: &mut LeaseSet, first: LeaseUpdate, more: &mut mpsc::Receiver<LeaseUpdate>) {
    let waiting = std::iter::from_fn(|| more.try_recv().ok());
    for update in std::iter::once(first).chain(waiting) {
        for refusal in leases.apply(update) {
            warn!("{refusal}");
        }
    }
}

/// Logs what failed and has it tried again soon.
fn report(errors: Vec<anyhow::Error>, resync: &mut tokio::time::Interval) {
    for problem in &errors {
        error!("{problem:#}");
    }
    if !errors.is_empty() {
        resync.reset_after(RETRY);
    }
}
