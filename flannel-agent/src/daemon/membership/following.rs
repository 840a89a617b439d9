//! The leases of all nodes, followed by a watch of the datastore.

use futures::FutureExt as _;
use futures::future::{Fuse, LocalBoxFuture};
use tokio::sync::mpsc;
use tracing::warn;

use super::Peers;
use crate::config::NetworkConfig;
use crate::lease::set::{LeaseSet, Refusal};
use crate::lease::{LeaseUpdate, OwnLease, PublicIps, RawLease, Standing, SubnetKey, SubnetManager};
use crate::metrics::{FailureKind, METRICS};

/// Lease updates in flight between datastore and backend (flanneld's EVENT_QUEUE_DEPTH).
const QUEUE: usize = 5000;

/// A watch, and the leases that it has delivered.
pub(super) struct Following<'a> {
    watch: Fuse<LocalBoxFuture<'a, ()>>,
    updates: mpsc::Receiver<LeaseUpdate>,
    leases: LeaseSet,
}

impl<'a> Following<'a> {
    /// Begins to follow, for the node that holds `own`.
    pub(super) fn new(store: &'a impl SubnetManager, network: &NetworkConfig, own: SubnetKey) -> Self {
        let (sender, updates) = mpsc::channel(QUEUE);
        let watch = store.watch(sender).boxed_local().fuse();
        Self { watch, updates, leases: LeaseSet::new(network, own) }
    }

    /// Waits for other leases than before. It may be dropped and called again.
    pub(super) async fn changed(&mut self) -> Peers {
        loop {
            tokio::select! {
                // It does not end, since `updates` stays open.
                () = &mut self.watch => {}
                Some(update) = self.updates.recv() => return self.take_in(update),
            }
        }
    }

    /// Takes in an update and all that wait behind it, so that a burst is one change.
    fn take_in(&mut self, first: LeaseUpdate) -> Peers {
        let mut next = Some(first);
        while let Some(update) = next {
            if matches!(update, LeaseUpdate::Snapshot(_)) {
                METRICS.datastore_up.set(1);
            }
            warn_of(self.leases.apply(update));
            next = self.updates.try_recv().ok();
        }
        self.peers()
    }

    /// Takes in all leases that there are, as an answer of the datastore.
    pub(super) fn replace(&mut self, leases: Vec<RawLease>) -> Peers {
        warn_of(self.leases.apply(LeaseUpdate::Snapshot(leases)));
        self.peers()
    }

    fn peers(&self) -> Peers {
        Peers { peers: self.leases.peers(), nodes: self.leases.nodes() }
    }

    /// Returns what the datastore's entry of the own subnet means to the node with this lease.
    pub(super) fn standing(&self, lease: &OwnLease) -> Standing {
        self.leases.standing(PublicIps::from(&lease.attrs))
    }
}

/// Logs each bad entry once.
fn warn_of(refusals: Vec<Refusal>) {
    for refusal in refusals {
        METRICS.count_failure(FailureKind::Refused);
        warn!("{refusal}");
    }
}
