//! The datastore's side of the daemon: the node's own lease and the leases of all nodes. Requests run beside
//! everything else.

mod following;
mod own;
mod recorder;
mod rivalry;

use std::net::IpAddr;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{LocalBoxFuture, OptionFuture};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::RETRY;
use crate::config::NetworkConfig;
use crate::lease::set::LeaseSet;
use crate::lease::{
    KnownNode, LastKnown, LeaseAttrs, LeaseUpdate, Loss, OwnLease, PublicIps, RawLease, Rival, Standing,
    SubnetKey, SubnetManager, Traces,
};
use crate::metrics::METRICS;
use crate::peer::Peer;
use crate::report::REPORT;
use following::{Following, peers, warn_of};
use own::{End, Own};
pub(super) use recorder::Recorder;
use rivalry::{Rivalry, Verdict};

/// How long packets may wait for an answer of the datastore.
const ANSWER: Duration = Duration::from_millis(500);

/// What a membership is made from, for as long as the network configuration stays.
pub(super) struct Terms<'a> {
    pub(super) network: &'a NetworkConfig,
    /// How long before its end the lease is renewed.
    pub(super) margin: Duration,
    /// For how long leases that vanish together are held.
    pub(super) hold: Duration,
    /// The subnet of an earlier run. It is preferred.
    pub(super) previous: Option<SubnetKey>,
    /// All addresses of this node.
    pub(super) addresses: Vec<IpAddr>,
    /// The node's addresses that an administrator has entered in the datastore.
    pub(super) given: PublicIps,
    /// What an earlier run knew.
    pub(super) last_known: Option<LastKnown>,
    /// How long to wait for the datastore's leases before going on with those.
    pub(super) patience: Duration,
}

/// A node's part in the network, as the datastore has it.
pub(super) struct Membership<'a, S: SubnetManager> {
    store: &'a S,
    network: &'a NetworkConfig,
    /// How long before its end the lease is renewed.
    margin: Duration,
    /// For how long leases that vanish together are held.
    hold: Duration,
    given: PublicIps,
    /// What other nodes need to know of this one.
    attrs: LeaseAttrs,
    /// `attrs` are newer than the request for the own lease.
    moved: bool,
    /// The subnet of the lease before, or of an earlier run. It is preferred.
    previous: Option<SubnetKey>,
    own: Own<'a>,
    rivalry: Rivalry,
    /// From the first own lease on.
    following: Option<Following<'a>>,
    /// What an earlier run knew, until the datastore's first answer.
    last_known: Option<Remembered>,
    /// The watch has delivered something that may be about the own lease.
    unjudged: bool,
    /// A request for all leases, beside the watch.
    asked: Option<LocalBoxFuture<'a, Option<Vec<RawLease>>>>,
    recorder: Recorder,
}

/// What an earlier run knew.
struct Remembered {
    subnet: SubnetKey,
    /// The leases, until the own lease is taken and these are what the watch begins with.
    leases: Option<LeaseSet>,
    /// When the node is to go on with them; `None` if that was said.
    patience: Option<Instant>,
}

/// What the node has to follow.
#[derive(Debug)]
pub(super) enum LeaseEvent {
    /// The node has this lease, and had the previous one.
    Taken { subnet: SubnetKey, previous: Option<SubnetKey> },
    /// The lease is lost. It is being taken again, or another one.
    Lost { subnet: SubnetKey, why: Loss },
    /// Another node with this node's address was first: the lease is left to it.
    GivenWay,
    /// The datastore has not answered yet: this is what an earlier run knew.
    LastKnown { subnet: SubnetKey, peers: Peers },
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
    /// What an operator must know of them, logged already.
    pub(super) alarm: Option<String>,
}

impl<'a, S: SubnetManager> Membership<'a, S> {
    /// Begins to take a lease.
    pub(super) fn new(store: &'a S, terms: Terms<'a>, attrs: LeaseAttrs, recorder: Recorder) -> Self {
        let Terms { network, margin, hold, previous, mut addresses, given, last_known, patience } = terms;
        let previous = previous.or(last_known.as_ref().map(|known| known.subnet));
        let announced = last_known.as_ref().and_then(|known| known.node.attrs.as_ref());
        addresses.extend(announced.into_iter().flat_map(|attrs| PublicIps::from(attrs).addresses()));
        let traces = Traces { subnet: previous, addresses, macs: attrs.vtep_macs().collect() };
        let last_known = last_known.map(|known| Remembered::new(known, network, hold, patience));
        Self {
            store,
            network,
            margin,
            hold,
            given,
            moved: false,
            previous,
            own: Own::take(store, network, attrs.clone(), traces),
            attrs,
            rivalry: Rivalry::new(),
            following: None,
            last_known,
            unjudged: false,
            asked: None,
            recorder,
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
            let patience = self.last_known.as_ref().and_then(|known| known.patience).map(sleep_until);
            tokio::select! {
                end = self.own.ended() => if let Some(change) = self.transition(end) {
                    return change;
                },
                Some(peers) = OptionFuture::from(following) => {
                    self.unjudged = true;
                    self.answered();
                    return LeaseEvent::Peers(peers);
                },
                Some(()) = OptionFuture::from(patience) => if let Some(last_known) = self.go_on() {
                    return last_known;
                },
                () = self.recorder.due() => if let Some(known) = self.known() {
                    self.recorder.write(known);
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
            // The other node has not moved.
            Own::GivenWay(..) => self.take_again(),
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

    /// Watches anew: what the watch before has yet to deliver may be older than the lease. What is known stays until
    /// there is news of it.
    fn follow(&mut self, lease: &OwnLease) {
        let remembered = || self.last_known.as_mut()?.leases.take();
        let known = self.following.take().map(|following| following.leases).or_else(remembered);
        let leases = match known {
            Some(leases) => leases.of_node(self.network, lease.subnet),
            None => LeaseSet::new(self.network, lease.subnet).holding(self.hold),
        };
        self.following = Some(Following::new(self.store, leases));
    }

    /// The datastore has answered: its leases count from now on.
    fn answered(&mut self) {
        if self.last_known.take().is_some_and(|known| known.patience.is_none()) {
            info!("the datastore answers again; its leases count from now on");
        }
        self.recorder.changed();
    }

    /// The datastore has not answered for long enough: returns what an earlier run knew.
    fn go_on(&mut self) -> Option<LeaseEvent> {
        let known = self.last_known.as_mut()?;
        known.patience = None;
        let leases = known.leases.as_ref().or(self.following.as_ref().map(|following| &following.leases))?;
        let (subnet, peers) = (self.previous.unwrap_or(known.subnet), peers(leases));
        warn!(
            %subnet, nodes = peers.nodes,
            "the datastore has not answered yet; going on with the subnet and the nodes of the last run until it does"
        );
        Some(LeaseEvent::LastKnown { subnet, peers })
    }

    /// Returns what the datastore has, for the next run; `None` before its first answer.
    fn known(&self) -> Option<LastKnown> {
        let following = self.following.as_ref().filter(|_| self.last_known.is_none())?;
        Some(LastKnown {
            network: self.network.clone(),
            node: KnownNode { attrs: Some(self.attrs.clone()), public_ips: self.given },
            subnet: self.previous?,
            leases: following.leases.entries(),
            held: following.held(),
        })
    }

    /// Holds the lease, or writes an address to it that has changed during the request.
    fn hold(&mut self, lease: OwnLease) {
        METRICS.set_lease_end(lease.term);
        REPORT.set_holds_lease(true);
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
        let (lease, given_way_to) = match &self.own {
            Own::Taking(_) | Own::Readdressing(..) => return None,
            Own::Held(lease, _) | Own::Repairing(lease, _) => (lease.clone(), None),
            Own::GivenWay(lease, mac) => (lease.clone(), Some(*mac)),
        };
        let is_repairing = matches!(self.own, Own::Repairing(..));
        let rival = following.rival(&lease);
        match following.standing(&lease) {
            Standing::Lost(loss) => return Some(self.lose(lease.subnet, loss)),
            Standing::Held if given_way_to.is_some() => {
                if rival.map(|rival| rival.mac) != given_way_to {
                    self.take_again();
                }
            }
            Standing::Held => {
                return rival.filter(|_| !is_repairing).and_then(|rival| self.meet(lease, rival));
            }
            Standing::Spoilt if is_repairing => {}
            Standing::Spoilt if given_way_to.is_some() => self.take_again(),
            Standing::Spoilt => {
                warn!(subnet = %lease, "the value of the node's own lease is damaged; writing it again");
                // Another process may still be writing the file of the lease.
                self.own = Own::repair(self.store, lease, RETRY);
            }
        }
        None
    }

    /// Another node with this node's address has written the lease: writes it again, or leaves it to the other one.
    fn meet(&mut self, lease: OwnLease, rival: Rival) -> Option<LeaseEvent> {
        match self.rivalry.judge(&lease, rival) {
            Verdict::Write(pause) => {
                self.own = Own::repair(self.store, lease, pause);
                None
            }
            Verdict::GiveWay => {
                self.own = Own::GivenWay(lease, rival.mac);
                REPORT.set_holds_lease(false);
                Some(LeaseEvent::GivenWay)
            }
        }
    }

    /// Returns whether the lease is left to another node with this node's address.
    pub(super) const fn has_given_way(&self) -> bool {
        matches!(self.own, Own::GivenWay(..))
    }

    /// Takes a lease again. The watch goes on meanwhile.
    fn lose(&mut self, subnet: SubnetKey, why: Loss) -> LeaseEvent {
        self.take_again();
        LeaseEvent::Lost { subnet, why }
    }

    /// Takes a lease. Address and MAC do not count this time: another node that has both would take the lease back in turn.
    fn take_again(&mut self) {
        self.rivalry.ended();
        REPORT.set_holds_lease(false);
        self.moved = false;
        let traces = Traces { subnet: self.previous, ..Traces::default() };
        self.own = Own::take(self.store, self.network, self.attrs.clone(), traces);
    }
}

impl<S: SubnetManager> Drop for Membership<'_, S> {
    /// Writes down what is not written yet.
    fn drop(&mut self) {
        if self.recorder.is_behind()
            && let Some(known) = self.known()
        {
            self.recorder.write_now(&known);
        }
    }
}

impl Remembered {
    fn new(known: LastKnown, network: &NetworkConfig, hold: Duration, patience: Duration) -> Self {
        let mut leases = LeaseSet::new(network, known.subnet).holding(hold);
        warn_of(leases.apply(LeaseUpdate::Snapshot(known.leases)));
        Self { subnet: known.subnet, leases: Some(leases), patience: Some(Instant::now() + patience) }
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
