//! Finds leases that overlap.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::lease::key::{SubnetKey, overlap};

/// The subnets of leases that do not overlap. Therefore a subnet that overlaps another one is next to it in order.
#[derive(Debug, Default)]
pub(super) struct SubnetIndex(BTreeMap<IpNet, SubnetKey>);

impl SubnetIndex {
    /// Returns another lease that has an address in common with this one.
    pub(super) fn overlapping(&self, key: &SubnetKey) -> Option<SubnetKey> {
        key.nets().find_map(|net| {
            let before = self.0.range(..=net).next_back();
            let neighbours = before.into_iter().chain(self.0.range(net..).next());
            neighbours
                .filter(|(other, _)| overlap(**other, net))
                .find_map(|(_, holder)| (holder != key).then_some(*holder))
        })
    }

    pub(super) fn add(&mut self, key: SubnetKey) {
        self.0.extend(key.nets().map(|net| (net, key)));
    }

    pub(super) fn remove(&mut self, key: &SubnetKey) {
        for net in key.nets() {
            self.0.remove(&net);
        }
    }
}
