//! The Nodes of the cluster as leases. Pure.
//!
//! Of two nodes with the same podCIDR the older one has the lease, and of two of the same age the one whose name sorts
//! first: every node decides the same. On this node its own subnet is always its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::convert;
use super::node::NodeView;
use crate::lease::entry::{LeaseAttrs, LeaseEnd, RawLease};
use crate::lease::key::SubnetKey;
use crate::lease::manager::LeaseUpdate;

/// What this node holds.
#[derive(Clone, Debug)]
pub(super) struct OwnNode {
    pub name: Arc<str>,
    pub subnet: SubnetKey,
    /// What it wrote. Anything else there is damage.
    pub attrs: LeaseAttrs,
}

/// The Nodes, and which of them claim a subnet.
pub(super) struct Nodes {
    own: OwnNode,
    nodes: BTreeMap<Arc<str>, NodeView>,
    claims: BTreeMap<SubnetKey, BTreeSet<Claim>>,
    /// What has been reported, by node.
    reported: BTreeMap<Arc<str>, String>,
}

/// A node that has a subnet. The smallest one wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    created: Box<str>,
    node: Arc<str>,
}

/// What a change of Nodes means.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Changes {
    pub updates: Vec<LeaseUpdate>,
    pub problems: Vec<Problem>,
}

/// What an operator must repair. Each is reported once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub message: String,
    /// An Event of this node is to say it. What keeps this node from taking a subnet is no such problem: taking one says it.
    pub notify: bool,
}

impl Nodes {
    /// Returns no nodes, for this one.
    pub(super) fn new(own: OwnNode) -> Self {
        Self { own, nodes: BTreeMap::new(), claims: BTreeMap::new(), reported: BTreeMap::new() }
    }

    /// This node holds another subnet, or has written something else. What is known of the Nodes is read again after this.
    pub(super) fn hold(&mut self, own: OwnNode) {
        self.own = own;
    }

    /// Takes in all Nodes that there are.
    pub(super) fn replace(&mut self, all: Vec<NodeView>) -> Changes {
        self.nodes.clear();
        self.claims.clear();
        for node in all {
            self.claim(&node);
            self.nodes.insert(Arc::clone(&node.name), node);
        }
        self.reported.retain(|name, _| self.nodes.contains_key(name));
        let names: Vec<Arc<str>> = self.nodes.keys().cloned().collect();
        let problems = names.iter().filter_map(|name| self.new_problem(name)).collect();
        Changes { updates: vec![LeaseUpdate::Snapshot(self.leases())], problems }
    }

    /// Takes in a Node that is new or may have changed.
    pub(super) fn put(&mut self, node: NodeView) -> Changes {
        let name = Arc::clone(&node.name);
        if self.nodes.get(&name) == Some(&node) {
            return Changes::default();
        }
        self.change(&name, Some(node))
    }

    /// Takes in that a Node is gone.
    pub(super) fn remove(&mut self, name: &str) -> Changes {
        self.change(name, None)
    }

    /// Returns the leases of all nodes, the oldest node first.
    pub(super) fn leases(&self) -> Vec<RawLease> {
        let mut leases: Vec<_> = self.claims.keys().filter_map(|key| self.lease(key)).collect();
        leases.sort_by_cached_key(|lease| lease.node.as_ref().map(|name| self.age(name)));
        leases
    }

    fn change(&mut self, name: &str, node: Option<NodeView>) -> Changes {
        let before = self.nodes.get(name).and_then(|node| self.claimed(node));
        let after = node.as_ref().and_then(|node| self.claimed(node));
        let keys: BTreeSet<SubnetKey> = before.into_iter().chain(after).collect();
        let held: Vec<_> = keys.iter().map(|key| (*key, self.lease(key))).collect();
        let mut concerned = self.claimants(&keys);
        if let Some(old) = self.nodes.remove(name) {
            self.release(&old);
        }
        if let Some(node) = node {
            self.claim(&node);
            self.nodes.insert(Arc::clone(&node.name), node);
        }
        concerned.extend(self.claimants(&keys));
        concerned.insert(Arc::from(name));
        Changes {
            updates: held
                .into_iter()
                .filter_map(|(key, held)| update(key, &held, self.lease(&key)))
                .collect(),
            problems: concerned.iter().filter_map(|name| self.new_problem(name)).collect(),
        }
    }

    fn claim(&mut self, node: &NodeView) {
        if let Some(key) = self.claimed(node) {
            self.claims.entry(key).or_default().insert(Claim::of(node));
        }
    }

    fn release(&mut self, node: &NodeView) {
        let Some(key) = self.claimed(node) else { return };
        if let Some(claims) = self.claims.get_mut(&key) {
            claims.remove(&Claim::of(node));
            if claims.is_empty() {
                self.claims.remove(&key);
            }
        }
    }

    /// Returns the nodes that have one of these subnets.
    fn claimants(&self, keys: &BTreeSet<SubnetKey>) -> BTreeSet<Arc<str>> {
        let claims = keys.iter().filter_map(|key| self.claims.get(key)).flatten();
        claims.map(|claim| Arc::clone(&claim.node)).collect()
    }

    /// Returns the subnet for which a node is to be asked, if it has one that can be used.
    fn claimed(&self, node: &NodeView) -> Option<SubnetKey> {
        let given = convert::subnet(node).ok()?;
        if node.name != self.own.name {
            return Some(given).filter(|_| convert::is_managed(node));
        }
        let own = self.own.subnet;
        let enabled = SubnetKey {
            v4: given.v4.filter(|_| own.v4.is_some()),
            v6: given.v6.filter(|_| own.v6.is_some()),
        };
        // After another podCIDR was assigned, this node takes it before it is announced.
        Some(own).filter(|own| *own == enabled)
    }

    /// Returns the lease of a subnet.
    fn lease(&self, key: &SubnetKey) -> Option<RawLease> {
        let claims = self.claims.get(key)?;
        let own = claims.iter().find(|claim| claim.node == self.own.name);
        let winner = if *key == self.own.subnet { own? } else { claims.first()? };
        let attrs = convert::attrs(self.nodes.get(&winner.node)?);
        let value = serde_json::to_vec(&attrs).ok()?;
        let damaged = own.is_some() && serde_json::to_vec(&self.own.attrs).ok()? != value;
        let value = if damaged { Vec::new() } else { value };
        Some(RawLease {
            key: key.to_string(),
            value,
            node: Some(Arc::clone(&winner.node)),
            end: LeaseEnd::Never,
        })
    }

    fn age(&self, name: &Arc<str>) -> Option<Claim> {
        self.nodes.get(name).map(Claim::of)
    }

    /// Returns what is wrong with a node, unless it has been reported.
    fn new_problem(&mut self, name: &Arc<str>) -> Option<Problem> {
        let Some(problem) = self.nodes.get(name).and_then(|node| self.problem(node)) else {
            self.reported.remove(name);
            return None;
        };
        let reported = self.reported.insert(Arc::clone(name), problem.message.clone());
        (reported.as_deref() != Some(&problem.message)).then_some(problem)
    }

    fn problem(&self, node: &NodeView) -> Option<Problem> {
        let own = node.name == self.own.name;
        if !own && !convert::is_managed(node) {
            return None;
        }
        match convert::subnet(node) {
            Err(problem) => Some(Problem { message: problem.to_string(), notify: false }),
            Ok(_) => self.duplicate(node),
        }
    }

    /// Reports that an older node has the same subnet.
    fn duplicate(&self, node: &NodeView) -> Option<Problem> {
        let key = self.claimed(node)?;
        let winner = &self.claims.get(&key)?.first()?.node;
        let loser = &node.name;
        let cidrs: Vec<_> = key.nets().map(|net| net.to_string()).collect();
        let cidrs = cidrs.join(" and ");
        let message = format!(
            "the nodes {winner} and {loser} have the same podCIDR {cidrs}: other nodes send to {winner}, which is the \
             older one, and do not reach the pods of {loser}. Delete the node {loser} and let it register again; only \
             one controller may assign podCIDRs"
        );
        (winner != loser).then(|| Problem { message, notify: [winner, loser].contains(&&self.own.name) })
    }
}

impl Claim {
    fn of(node: &NodeView) -> Self {
        Self { created: node.created.clone(), node: Arc::clone(&node.name) }
    }
}

/// Returns the change from one lease of a subnet to another.
fn update(key: SubnetKey, before: &Option<RawLease>, after: Option<RawLease>) -> Option<LeaseUpdate> {
    match after {
        _ if *before == after => None,
        Some(lease) => Some(LeaseUpdate::Put(lease)),
        None => Some(LeaseUpdate::Delete(key.to_string())),
    }
}

#[cfg(test)]
mod tests;
