//! The leases of the cluster, checked entry by entry. Pure.
//!
//! A refused entry changes nothing: neither other leases nor the good value that its key had before.

mod check;
mod subnet_index;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use super::entry::RawLease;
use super::key::SubnetKey;
use super::manager::LeaseUpdate;
use super::policy::{self, Standing};
use super::public_ips::PublicIps;
use crate::config::NetworkConfig;
use crate::peer::Peer;

pub use check::RefusalReason;
use check::{AcceptedLease, LeaseChecker};
use subnet_index::SubnetIndex;

/// The leases of all nodes that this node can use.
#[derive(Debug)]
pub struct LeaseSet {
    checker: LeaseChecker,
    peers: BTreeMap<SubnetKey, PeerNode>,
    subnets: SubnetIndex,
    /// The holder of our own subnet, from the last value that could be read. `None` if there is no entry.
    own: Option<PublicIps>,
    /// The refused values, so that each is reported once.
    refused: BTreeMap<String, RawLease>,
}

/// Another node.
#[derive(Debug)]
struct PeerNode {
    name: Option<Arc<str>>,
    /// One for each address family.
    peers: Vec<Peer>,
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
        match node {
            Some(node) => write!(f, "lease {key} of the node {node} not used: {reason}"),
            None => write!(f, "lease {key} not used: {reason}"),
        }
    }
}

impl LeaseSet {
    /// Returns an empty set for the node that holds `own`.
    #[must_use]
    pub fn new(config: &NetworkConfig, own: SubnetKey) -> Self {
        let checker = LeaseChecker::new(config, own);
        Self {
            checker,
            peers: BTreeMap::new(),
            subnets: SubnetIndex::default(),
            own: None,
            refused: BTreeMap::new(),
        }
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

    /// Returns the other nodes, sorted by lease. A node has a peer for each address family.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        self.peers.values().flat_map(|node| &node.peers).cloned().collect()
    }

    /// Returns the number of other nodes.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.peers.len()
    }

    /// Returns what the datastore's entry of our own subnet means to the node `us`. Before the first snapshot there
    /// is no entry.
    #[must_use]
    pub fn standing(&self, us: PublicIps) -> Standing {
        let spoilt = self.refused.contains_key(&self.checker.own.to_string());
        policy::standing(if spoilt { Some(PublicIps::default()) } else { self.own }, us)
    }

    fn keep_only(&mut self, leases: &[RawLease]) {
        let present: BTreeSet<&str> = leases.iter().map(|lease| lease.key.as_str()).collect();
        let keys: BTreeSet<SubnetKey> = present.iter().filter_map(|key| key.parse().ok()).collect();
        for (key, _) in self.peers.extract_if(.., |key, _| !keys.contains(key)) {
            self.subnets.remove(&key);
        }
        self.own = self.own.filter(|_| keys.contains(&self.checker.own));
        self.refused.retain(|key, _| present.contains(key.as_str()));
    }

    fn put(&mut self, lease: RawLease) -> Option<Refusal> {
        match self.checker.check(&lease).and_then(|accepted| self.add(accepted, &lease)) {
            Ok(()) => {
                self.refused.remove(&lease.key);
                None
            }
            Err(reason) => {
                let reported = self.refused.insert(lease.key.clone(), lease.clone()).as_ref() == Some(&lease);
                let RawLease { key, node, .. } = lease;
                (!reported).then_some(Refusal { key, node, reason })
            }
        }
    }

    fn add(&mut self, accepted: AcceptedLease, lease: &RawLease) -> Result<(), RefusalReason> {
        match accepted {
            AcceptedLease::Own(holder) => self.own = Some(holder),
            AcceptedLease::Peer(key, peers) => {
                if let Some(other) = self.subnets.overlapping(&key) {
                    let node = self.peers.get(&other).and_then(|other| other.name.clone());
                    return Err(RefusalReason::OverlapsPeer { other, node });
                }
                self.subnets.add(key);
                self.peers.insert(key, PeerNode { name: lease.node.clone(), peers });
            }
        }
        Ok(())
    }

    fn delete(&mut self, key: &str) {
        self.refused.remove(key);
        let Ok(key) = key.parse::<SubnetKey>() else { return };
        if self.peers.remove(&key).is_some() {
            self.subnets.remove(&key);
            self.check_waiting(key);
        }
        if key == self.checker.own {
            self.own = None;
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
