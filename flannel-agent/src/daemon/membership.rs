//! The datastore's side of the daemon: the node's own lease and the leases of all nodes. Requests run beside
//! everything else.

mod following;
mod own;

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{LocalBoxFuture, OptionFuture};
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::config::NetworkConfig;
use crate::lease::{LeaseAttrs, Loss, OwnLease, RawLease, Standing, SubnetKey, SubnetManager};
use crate::metrics::METRICS;
use crate::peer::Peer;
use following::Following;
use own::{End, Own};

/// How long packets may wait for an answer of the datastore.
const ANSWER: Duration = Duration::from_millis(500);

/// A node's part in the network, as the datastore has it.
pub(super) struct Membership<'a, S> {
    store: &'a S,
    network: &'a NetworkConfig,
    /// How long before its end the lease is renewed.
    margin: Duration,
    /// What other nodes need to know of this one.
    attrs: LeaseAttrs,
    /// `attrs` are newer than the request for the own lease.
    moved: bool,
    /// The subnet of the lease before, or of an earlier run. It is preferred.
    previous: Option<SubnetKey>,
    own: Own<'a>,
    /// From the first own lease on.
    following: Option<Following<'a>>,
    /// The watch has delivered something that may be about the own lease.
    unjudged: bool,
    /// A request for all leases, beside the watch.
    asked: Option<LocalBoxFuture<'a, Option<Vec<RawLease>>>>,
}

/// What the node has to follow.
#[derive(Debug)]
pub(super) enum LeaseEvent {
    /// The node has this lease, and had the previous one.
    Taken { subnet: SubnetKey, previous: Option<SubnetKey> },
    /// The lease is lost. It is being taken again, or another one.
    Lost { subnet: SubnetKey, why: Loss },
    /// The leases of the other nodes.
    Peers(Peers),
    /// The datastore's answer to [`Membership::ask`]; `None` if there is none.
    Answer(Option<Peers>),
}

/// The other nodes.
#[derive(Debug)]
pub(super) struct Peers {
    /// One for each node and address family.
    pub(super) peers: Vec<Peer>,
    /// The number of nodes.
    pub(super) nodes: usize,
}

impl<'a, S: SubnetManager> Membership<'a, S> {
    /// Begins to take a lease. `previous`: the subnet of an earlier run.
    pub(super) fn new(
        store: &'a S,
        network: &'a NetworkConfig,
        margin: Duration,
        attrs: LeaseAttrs,
        previous: Option<SubnetKey>,
    ) -> Self {
        let own = Own::take(store, network, attrs.clone(), previous);
        Self {
            store,
            network,
            margin,
            attrs,
            moved: false,
            previous,
            own,
            following: None,
            unjudged: false,
            asked: None,
        }
    }

    /// Waits for the next change. It may be dropped and called again; no change gets lost.
    pub(super) async fn changed(&mut self) -> LeaseEvent {
        loop {
            if std::mem::take(&mut self.unjudged)
                && let Some(change) = self.judge()
            {
                return change;
            }
            let following = self.following.as_mut().map(Following::changed);
            tokio::select! {
                end = self.own.ended() => if let Some(change) = self.transition(end) {
                    return change;
                },
                Some(peers) = OptionFuture::from(following) => {
                    self.unjudged = true;
                    return LeaseEvent::Peers(peers);
                },
                Some(leases) = OptionFuture::from(self.asked.as_mut()) => {
                    self.asked = None;
                    let following = self.following.as_mut();
                    return LeaseEvent::Answer(following.zip(leases).map(|(following, all)| following.replace(all)));
                }
            }
        }
    }

    /// Writes the node's new address to its lease. A request that runs ends first: the datastore may have acted on it
    /// already.
    pub(super) fn readdress(&mut self, attrs: LeaseAttrs) {
        self.attrs = attrs;
        match &self.own {
            Own::Held(lease, _) | Own::Repairing(lease, _) => {
                self.own = Own::readdress(self.store, lease.clone(), self.attrs.clone());
            }
            Own::Taking(_) | Own::Readdressing(..) => self.moved = true,
        }
    }

    /// Asks for all leases: the watch may not have delivered all of them yet. Has no effect while such a request runs.
    pub(super) fn ask(&mut self) {
        let store = self.store;
        self.asked.get_or_insert_with(|| async { all_leases(store).await }.boxed_local());
    }

    /// Returns whether a request for all leases runs.
    pub(super) const fn is_asking(&self) -> bool {
        self.asked.is_some()
    }

    /// Enters the state that follows the end of another one.
    fn transition(&mut self, end: End) -> Option<LeaseEvent> {
        match end {
            End::Taken(lease) => {
                let subnet = lease.subnet;
                self.follow(&lease);
                self.hold(lease);
                Some(LeaseEvent::Taken { subnet, previous: self.previous.replace(subnet) })
            }
            End::Readdressed(lease) => {
                self.follow(&lease);
                self.hold(lease);
                None
            }
            End::Renewed(lease) => {
                self.hold(lease);
                None
            }
            End::Lost(subnet, why) => Some(self.lose(subnet, why)),
        }
    }

    /// Watches anew: what the watch before has yet to deliver may be older than the lease.
    fn follow(&mut self, lease: &OwnLease) {
        self.following = Some(Following::new(self.store, self.network, lease.subnet));
    }

    /// Holds the lease, or writes an address to it that has changed during the request.
    fn hold(&mut self, lease: OwnLease) {
        METRICS.set_lease_end(lease.term);
        self.own = if std::mem::take(&mut self.moved) {
            Own::readdress(self.store, lease, self.attrs.clone())
        } else {
            Own::hold(self.store, lease, self.margin)
        };
    }

    /// Looks for the own lease among those that the watch has delivered. While a lease is taken or a new address written, only
    /// the request's end shows who holds it.
    fn judge(&mut self) -> Option<LeaseEvent> {
        let following = self.following.as_ref()?;
        match &self.own {
            Own::Taking(_) | Own::Readdressing(..) => None,
            Own::Held(lease, _) | Own::Repairing(lease, _) => match following.standing(lease) {
                Standing::Held => None,
                Standing::Spoilt if matches!(self.own, Own::Repairing(..)) => None,
                Standing::Spoilt => {
                    warn!(subnet = %lease, "the value of the node's own lease is damaged; writing it again");
                    self.own = Own::repair(self.store, lease.clone());
                    None
                }
                Standing::Lost(loss) => Some(self.lose(lease.subnet, loss)),
            },
        }
    }

    /// Takes a lease again. The watch goes on meanwhile.
    fn lose(&mut self, subnet: SubnetKey, why: Loss) -> LeaseEvent {
        self.moved = false;
        self.own = Own::take(self.store, self.network, self.attrs.clone(), self.previous);
        LeaseEvent::Lost { subnet, why }
    }
}

async fn all_leases(store: &impl SubnetManager) -> Option<Vec<RawLease>> {
    match timeout(ANSWER, store.leases()).await {
        Ok(Ok(all)) => return Some(all),
        Ok(Err(error)) => debug!("asking for a lease that a packet waits for: {error:#}"),
        Err(_) => debug!("the datastore takes too long to answer for a packet that waits"),
    }
    None
}

#[cfg(test)]
mod tests;
