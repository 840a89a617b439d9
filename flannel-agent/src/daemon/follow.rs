//! A node with a subnet: the leases of the others go into the backend, ours is renewed.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{error, info, warn};

use super::{Held, RETRY, state};
use crate::backend::Backend;
use crate::config::NetworkConfig;
use crate::firewall::Firewall;
use crate::lease::pick::PublicIps;
use crate::lease::set::LeaseSet;
use crate::lease::{LeaseUpdate, OwnLease, SubnetManager};
use crate::notify;
use crate::uplink::Uplink;

/// The least time between renewals.
const LEAST_RENEWAL: Duration = Duration::from_secs(60);
/// How often the kernel's entries are read back and repaired.
const RESYNC: Duration = Duration::from_secs(60);
/// Lease updates in flight between datastore and backend (flanneld's EVENT_QUEUE_DEPTH).
const QUEUE: usize = 5000;

/// Why following ended.
pub(super) enum End {
    LeaseLost,
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
    let mut renewal = renewal_of(&lease, margin);
    loop {
        tokio::select! {
            () = &mut watch => return End::LeaseLost,
            uplink = &mut changed => {
                return End::UplinkChanged(uplink, Box::new(Held { lease, peers: leases.peers() }));
            }
            Some(update) = updates.recv() => {
                take_in(&mut leases, update, &mut updates);
                report(backend.apply(&leases.peers()).await, &mut resync);
                notify::status(&format!("{}, peers: {}", state(&lease, backend), leases.nodes()));
                if !leases.own().is_some_and(|holder| holder.same_node(&us)) {
                    return End::LeaseLost;
                }
            }
            () = backend.changed() => report(backend.react(&leases.peers()).await, &mut resync),
            () = firewall.due() => firewall.resync().await,
            _ = resync.tick() => report(backend.resync(&leases.peers()).await, &mut resync),
            () = at(renewal) => match store.renew(&lease).await {
                Ok(Some(renewed)) => {
                    info!(subnet = %renewed.subnet, "lease renewed");
                    lease = renewed;
                    renewal = renewal_of(&lease, margin);
                }
                Ok(None) => return End::LeaseLost,
                Err(error) => {
                    warn!("renewing the lease of {}: {error:#}; trying again", lease.subnet);
                    renewal = Some(Instant::now() + RETRY);
                }
            },
        }
    }
}

/// Takes in an update and all that wait behind it, so that a burst is one change of the backend.
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

fn renewal_of(lease: &OwnLease, margin: Duration) -> Option<Instant> {
    // A margin as long as the lease must not mean renewing all the time.
    let soonest = Instant::now() + LEAST_RENEWAL;
    lease.term.map(|ends| ends.checked_sub(margin).map_or(soonest, |due| due.max(soonest)))
}

/// At that time, or never.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
