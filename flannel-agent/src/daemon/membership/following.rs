//! The leases of all nodes, followed by a watch of the datastore.

use std::collections::BTreeMap;
use std::time::SystemTime;

use futures::FutureExt as _;
use futures::future::{Fuse, LocalBoxFuture, OptionFuture};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use super::Peers;
use crate::lease::set::{LeaseSet, Refusal, Settled};
use crate::lease::{
    LeaseUpdate, OwnLease, PublicIps, RawLease, Rival, Standing, SubnetKey, SubnetManager, rival,
};
use crate::metrics::{FailureKind, METRICS};
use crate::report::REPORT;

/// Lease updates in flight between datastore and backend (flanneld's EVENT_QUEUE_DEPTH).
const QUEUE: usize = 5000;

/// A watch, and the leases that it has delivered.
pub(super) struct Following<'a> {
    watch: Fuse<LocalBoxFuture<'a, ()>>,
    updates: mpsc::Receiver<LeaseUpdate>,
    pub(super) leases: LeaseSet,
}

impl<'a> Following<'a> {
    /// Begins to follow. `leases`: those that are known already.
    pub(super) fn new(store: &'a impl SubnetManager, leases: LeaseSet) -> Self {
        let (sender, updates) = mpsc::channel(QUEUE);
        let watch = store.watch(sender).boxed_local().fuse();
        Self { watch, updates, leases }
    }

    /// Waits for other leases than before. It may be dropped and called again.
    pub(super) async fn changed(&mut self) -> Peers {
        loop {
            let end = OptionFuture::from(self.leases.next_end().map(sleep_until));
            tokio::select! {
                // It does not end, since `updates` stays open.
                () = &mut self.watch => {}
                Some(update) = self.updates.recv() => return self.take_in(update),
                Some(()) = end => return self.settle(),
            }
        }
    }

    /// Takes in an update and all that wait behind it, so that a burst is one change.
    fn take_in(&mut self, first: LeaseUpdate) -> Peers {
        let mut next = Some(first);
        while let Some(update) = next {
            if matches!(update, LeaseUpdate::Snapshot(_)) {
                REPORT.datastore_answers();
            }
            REPORT.datastore_changed();
            warn_of(self.leases.apply(update));
            next = self.updates.try_recv().ok();
        }
        self.settle()
    }

    /// Takes in all leases that there are, as an answer of the datastore.
    pub(super) fn replace(&mut self, leases: Vec<RawLease>) -> Peers {
        warn_of(self.leases.apply(LeaseUpdate::Snapshot(leases)));
        self.settle()
    }

    /// Holds what has vanished together, and lets go what was held for long enough.
    fn settle(&mut self) -> Peers {
        let before = METRICS.held_leases.get();
        let settled = self.leases.settle(Instant::now());
        METRICS.held_leases.set(self.leases.held().try_into().unwrap_or(i64::MAX));
        let alarm = log(settled, &self.leases);
        if before > 0 && self.leases.held() == 0 && settled.let_go == 0 {
            info!("all leases that had vanished are there again, or others have their subnets");
        }
        Peers { alarm, ..peers(&self.leases) }
    }

    /// Returns the leases that the datastore no longer has, and until when they are held, in seconds since 1970 (UTC).
    pub(super) fn held(&self) -> BTreeMap<SubnetKey, u64> {
        let (now, since_1970) = (Instant::now(), SystemTime::now().duration_since(SystemTime::UNIX_EPOCH));
        let since_1970 = since_1970.unwrap_or_default();
        let until = |end: Instant| (since_1970 + end.saturating_duration_since(now)).as_secs();
        self.leases.held_until().map(|(key, end)| (key, until(end))).collect()
    }

    /// Returns what the datastore's entry of the own subnet means to the node with this lease.
    pub(super) fn standing(&self, lease: &OwnLease) -> Standing {
        self.leases.standing(PublicIps::from(&lease.attrs))
    }

    /// Returns the other node that has written this lease, with this node's address.
    pub(super) fn rival(&self, lease: &OwnLease) -> Option<Rival> {
        let own: Vec<_> = lease.attrs.vtep_macs().collect();
        rival(self.leases.own_macs(), &own, &lease.replaced)
    }
}

/// Returns the nodes of these leases.
pub(super) fn peers(leases: &LeaseSet) -> Peers {
    Peers { peers: leases.peers(), nodes: leases.nodes(), alarm: None }
}

/// Logs each bad entry once.
pub(super) fn warn_of(refusals: Vec<Refusal>) {
    for refusal in refusals {
        METRICS.count_failure(FailureKind::Refused);
        warn!("{refusal}");
    }
}

/// Logs what was done about leases that vanished together. Returns what an operator must know.
fn log(Settled { held, let_go }: Settled, leases: &LeaseSet) -> Option<String> {
    let length = leases.hold_length().as_secs();
    if let_go > 0 {
        warn!(
            "{let_go} leases that vanished together {length} s ago are still missing; removing their nodes"
        );
    }
    let alarm = (held > 0).then(|| {
        format!(
            "{held} of {} leases vanished from the datastore together; their nodes stay reachable for {length} s \
             (--lease-hold). If these nodes still exist, check the datastore",
            leases.nodes()
        )
    });
    alarm.inspect(|alarm| error!("{alarm}"))
}
