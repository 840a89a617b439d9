//! The leases of the cluster as this node sees them: what the datastore says, judged entry by entry.
//!
//! Pure. A refused entry changes nothing: neither the other leases nor the good value that its key had.

mod claims;
mod judge;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{LeaseUpdate, PublicIps, RawLease, Standing, SubnetKey, policy};
use crate::config::NetworkConfig;
use crate::peer::Peer;

use claims::Claims;
pub use judge::Reason;
use judge::{Judge, Verdict};

/// The leases in force, and our own among them.
#[derive(Debug)]
pub struct LeaseSet {
    judge: Judge,
    peers: BTreeMap<SubnetKey, Vec<Peer>>,
    claims: Claims,
    /// Who holds our own subnet, by the last value that could be read; `None` if there is no entry.
    own: Option<PublicIps>,
    /// Refused values by key, so that each is reported once.
    refused: BTreeMap<String, Vec<u8>>,
}

/// An entry of the datastore that is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The entry's key, below `subnets/`.
    pub key: String,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lease {} not used: {}", self.key, self.reason)
    }
}

impl LeaseSet {
    /// An empty set for the node that holds `own`.
    #[must_use]
    pub fn new(config: &NetworkConfig, own: SubnetKey) -> Self {
        let judge = Judge::new(config, own);
        Self { judge, peers: BTreeMap::new(), claims: Claims::default(), own: None, refused: BTreeMap::new() }
    }

    /// Takes in what the datastore says. Returns the entries refused, each once per key and value.
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

    /// The other nodes, one entry per address family, sorted by lease.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        self.peers.values().flatten().cloned().collect()
    }

    /// How many other nodes there are.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.peers.len()
    }

    /// Returns what the datastore's entry of our own subnet means to the node `us`. Before the first snapshot there
    /// is no entry.
    #[must_use]
    pub fn standing(&self, us: PublicIps) -> Standing {
        let spoilt = self.refused.contains_key(&self.judge.own.to_string());
        policy::standing(if spoilt { Some(PublicIps::default()) } else { self.own }, us)
    }

    fn keep_only(&mut self, leases: &[RawLease]) {
        let present: BTreeSet<&str> = leases.iter().map(|lease| lease.key.as_str()).collect();
        let keys: BTreeSet<SubnetKey> = present.iter().filter_map(|key| key.parse().ok()).collect();
        for (key, _) in self.peers.extract_if(.., |key, _| !keys.contains(key)) {
            self.claims.free(&key);
        }
        self.own = self.own.filter(|_| keys.contains(&self.judge.own));
        self.refused.retain(|key, _| present.contains(key.as_str()));
    }

    fn put(&mut self, lease: RawLease) -> Option<Refusal> {
        match self.judge.judge(&lease).and_then(|verdict| self.take_in(verdict)) {
            Ok(()) => {
                self.refused.remove(&lease.key);
                None
            }
            Err(reason) => {
                let RawLease { key, value } = lease;
                let told = self.refused.insert(key.clone(), value.clone()) == Some(value);
                (!told).then_some(Refusal { key, reason })
            }
        }
    }

    fn take_in(&mut self, verdict: Verdict) -> Result<(), Reason> {
        match verdict {
            Verdict::Own(holder) => self.own = Some(holder),
            Verdict::Peer(key, peers) => {
                if let Some(other) = self.claims.rival(&key) {
                    return Err(Reason::OverlapsPeer { other });
                }
                self.claims.take(key);
                self.peers.insert(key, peers);
            }
        }
        Ok(())
    }

    fn delete(&mut self, key: &str) {
        self.refused.remove(key);
        let Ok(key) = key.parse::<SubnetKey>() else { return };
        if self.peers.remove(&key).is_some() {
            self.claims.free(&key);
            self.give_way(key);
        }
        if key == self.judge.own {
            self.own = None;
        }
    }

    /// Takes in what was refused because it overlaps this lease.
    fn give_way(&mut self, gone: SubnetKey) {
        let waited = |key: &&String| key.parse::<SubnetKey>().is_ok_and(|key| key.overlaps(&gone));
        let waiting: Vec<String> = self.refused.keys().filter(waited).cloned().collect();
        for key in waiting {
            let value = self.refused.get(&key).cloned().unwrap_or_default();
            self.put(RawLease { key, value });
        }
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
