//! The leases of the cluster, checked entry by entry. Pure.
//!
//! A refused entry changes nothing: neither other leases nor the good value that its key had before. Leases that vanish
//! together stay for a while ([`LeaseSet::settle`]).

mod check;
mod hold;
mod subnet_index;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::entry::RawLease;
use super::key::SubnetKey;
use super::manager::LeaseUpdate;
use super::policy::{self, Standing};
use super::public_ips::PublicIps;
use crate::config::NetworkConfig;
use crate::mac::Mac;
use crate::output::printable;
use crate::peer::Peer;

pub use check::RefusalReason;
use check::{AcceptedLease, LeaseChecker, OwnEntry};
use hold::Hold;
use subnet_index::SubnetIndex;

/// The leases of all nodes that this node can use.
#[derive(Debug)]
pub struct LeaseSet {
    checker: LeaseChecker,
    nodes: BTreeMap<SubnetKey, Node>,
    subnets: SubnetIndex,
    /// The holder of our own subnet, from the last value that could be read. `None` if there is no entry.
    own: Option<OwnEntry>,
    /// The refused values, so that each is reported once.
    refused: BTreeMap<String, RawLease>,
    hold: Hold,
}

/// Another node.
#[derive(Debug)]
struct Node {
    /// One for each address family.
    peers: Box<[Peer]>,
    lease: RawLease,
}

/// What [`LeaseSet::settle`] has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// The number of leases that have vanished together and are held from now on.
    pub held: usize,
    /// The number of leases that were held until now, and are not any more.
    pub let_go: usize,
}

/// Reports an entry of the datastore that is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The last part of the key.
    pub key: String,
    /// The name of the node, where the datastore has one.
    pub node: Option<Arc<str>>,
    /// Why.
    pub reason: RefusalReason,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, node, reason } = self;
        // Anybody who writes to the datastore chooses the key, and words of the reason: they must not end the line.
        let (key, why) = (key.escape_debug(), printable(&reason.to_string()));
        match node {
            Some(node) => {
                write!(f, "lease {key} of the node {node} not used: {why}; {}", reason.remedy_in_kubernetes())
            }
            None => write!(f, "lease {key} not used: {why}"),
        }
    }
}

impl LeaseSet {
    /// Returns an empty set for the node that holds `own`. It holds no leases that have vanished.
    #[must_use]
    pub fn new(config: &NetworkConfig, own: SubnetKey) -> Self {
        let checker = LeaseChecker::new(config, own);
        Self {
            checker,
            nodes: BTreeMap::new(),
            subnets: SubnetIndex::default(),
            own: None,
            refused: BTreeMap::new(),
            hold: Hold::default(),
        }
    }

    /// Sets for how long leases that vanish together are held.
    #[must_use]
    pub fn holding(self, length: Duration) -> Self {
        Self { hold: Hold::new(length), ..self }
    }

    /// Returns the same leases for a node that holds `own` from now on.
    #[must_use]
    pub fn of_node(mut self, config: &NetworkConfig, own: SubnetKey) -> Self {
        if own == self.checker.own {
            return self;
        }
        let mut moved = Self::new(config, own);
        for lease in self.entries() {
            moved.put(lease);
        }
        moved.hold = std::mem::take(&mut self.hold);
        moved
    }

    /// Applies a change. Returns the refused entries, each once per key and value.
    pub fn apply(&mut self, update: LeaseUpdate) -> Vec<Refusal> {
        match update {
            LeaseUpdate::Snapshot(leases) => {
                self.keep_only(&leases);
                leases.into_iter().filter_map(|lease| self.put(lease)).collect()
            }
            LeaseUpdate::Put(lease) => self.put(lease).into_iter().collect(),
            LeaseUpdate::Delete(key) => {
                self.delete(&key);
                Vec::new()
            }
        }
    }

    /// Decides about the leases that have vanished since the last call: those that vanished together are held, and are
    /// among the peers again. Each is let go when its time is over, or when another lease has its subnet. To be called
    /// after updates that came together, and at the time of [`LeaseSet::next_end`].
    pub fn settle(&mut self, now: Instant) -> Settled {
        let ended = self.hold.ended(now);
        for key in &ended {
            self.hold.let_go(key);
            self.remove(*key);
            self.check_waiting(*key);
        }
        let vanished = self.hold.take_vanished(self.nodes.len() - self.hold.held(), now);
        let before = self.hold.held();
        for lease in vanished {
            if let Ok(AcceptedLease::Peer(key, peers)) = self.checker.check(&lease)
                && self.subnets.overlapping(&key).is_none()
            {
                self.insert(key, peers, lease);
                self.hold.hold(key, now);
            }
        }
        Settled { held: self.hold.held() - before, let_go: ended.len() }
    }

    /// Returns when the next lease that is held is to be let go.
    #[must_use]
    pub fn next_end(&self) -> Option<Instant> {
        self.hold.next_end()
    }

    /// Returns the other nodes, sorted by lease. A node has a peer for each address family.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        self.nodes.values().flat_map(|node| &node.peers).cloned().collect()
    }

    /// Returns the entries of the other nodes.
    #[must_use]
    pub fn entries(&self) -> Vec<RawLease> {
        self.nodes.values().map(|node| node.lease.clone()).collect()
    }

    /// Returns the number of other nodes.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Returns the number of other nodes whose leases are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.hold.held()
    }

    /// Returns the other nodes whose leases are held, and until when.
    pub fn held_until(&self) -> impl Iterator<Item = (SubnetKey, Instant)> {
        self.hold.held_until()
    }

    /// Returns for how long leases that vanish together are held.
    #[must_use]
    pub const fn hold_length(&self) -> Duration {
        self.hold.length()
    }

    /// Returns what the datastore's entry of our own subnet means to the node `us`. Before the first snapshot there
    /// is no entry.
    #[must_use]
    pub fn standing(&self, us: PublicIps) -> Standing {
        let spoilt = self.refused.contains_key(&self.checker.own.to_string());
        let holder = self.own.as_ref().map(|own| own.holder);
        policy::standing(if spoilt { Some(PublicIps::default()) } else { holder }, us)
    }

    /// Returns the VTEP MACs in the datastore's entry of our own subnet. None are known where no other node can write it.
    #[must_use]
    pub fn own_macs(&self) -> &[Mac] {
        self.own.as_ref().map_or(&[], |own| &own.macs)
    }

    fn keep_only(&mut self, leases: &[RawLease]) {
        let present: BTreeSet<&str> = leases.iter().map(|lease| lease.key.as_str()).collect();
        let keys: BTreeSet<SubnetKey> = present.iter().filter_map(|key| key.parse().ok()).collect();
        let hold = &self.hold;
        let vanished = self.nodes.extract_if(.., |key, _| !keys.contains(key) && !hold.is_held(key));
        for (key, node) in vanished.collect::<Vec<_>>() {
            self.subnets.remove(&key);
            self.hold.peer_vanished(key, node.lease);
        }
        if !keys.contains(&self.checker.own) {
            self.remove_own();
        }
        self.refused.retain(|key, _| present.contains(key.as_str()));
    }

    fn put(&mut self, lease: RawLease) -> Option<Refusal> {
        match self.checker.check(&lease).and_then(|accepted| self.make_room_for(accepted)) {
            Ok(accepted) => {
                self.refused.remove(&lease.key);
                self.add(accepted, lease);
                None
            }
            Err(reason) => {
                let before = self.refused.insert(lease.key.clone(), lease.clone());
                let reported = before.is_some_and(|before| before.says_the_same(&lease));
                let RawLease { key, node, .. } = lease;
                (!reported).then_some(Refusal { key, node, reason })
            }
        }
    }

    /// Removes leases that overlap and are only held: one that the datastore has takes precedence.
    fn make_room_for(&mut self, accepted: AcceptedLease) -> Result<AcceptedLease, RefusalReason> {
        if let AcceptedLease::Peer(key, _) = &accepted {
            while let Some(other) = self.subnets.overlapping(key) {
                if !self.hold.let_go(&other) {
                    let node = self.nodes.get(&other).and_then(|other| other.lease.node.clone());
                    return Err(RefusalReason::OverlapsPeer { other, node });
                }
                self.remove(other);
            }
        }
        Ok(accepted)
    }

    fn add(&mut self, accepted: AcceptedLease, lease: RawLease) {
        match accepted {
            AcceptedLease::Own(own) => self.own = Some(own),
            AcceptedLease::Peer(key, peers) => {
                self.hold.present(&key);
                self.insert(key, peers, lease);
            }
        }
    }

    fn insert(&mut self, key: SubnetKey, peers: Box<[Peer]>, lease: RawLease) {
        self.subnets.add(key);
        self.nodes.insert(key, Node { peers, lease });
    }

    fn remove(&mut self, key: SubnetKey) -> Option<Node> {
        let node = self.nodes.remove(&key)?;
        self.subnets.remove(&key);
        Some(node)
    }

    fn remove_own(&mut self) {
        if self.own.take().is_some() {
            self.hold.own_vanished();
        }
    }

    fn delete(&mut self, key: &str) {
        self.refused.remove(key);
        let Ok(key) = key.parse::<SubnetKey>() else { return };
        if !self.hold.is_held(&key)
            && let Some(node) = self.remove(key)
        {
            self.hold.peer_vanished(key, node.lease);
            self.check_waiting(key);
        }
        if key == self.checker.own {
            self.remove_own();
        }
    }

    /// Checks the refused entries again that overlap a lease which is gone.
    fn check_waiting(&mut self, gone: SubnetKey) {
        let overlaps = |key: &String| key.parse::<SubnetKey>().is_ok_and(|key| key.overlaps(&gone));
        let waiting = self.refused.iter().filter(|(key, _)| overlaps(key)).map(|(_, lease)| lease.clone());
        for lease in waiting.collect::<Vec<_>>() {
            self.put(lease);
        }
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
