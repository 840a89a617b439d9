//! Which lease in force has which subnet: no two have an address in common.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::lease::SubnetKey;
use crate::lease::key::overlap;

/// The subnets of the leases in force. As none overlap, whoever has part of a subnet is next to it in order.
#[derive(Debug, Default)]
pub(super) struct Claims(BTreeMap<IpNet, SubnetKey>);

impl Claims {
    /// Another lease that has an address of this one.
    pub(super) fn rival(&self, key: &SubnetKey) -> Option<SubnetKey> {
        key.nets().find_map(|net| {
            let before = self.0.range(..=net).next_back();
            let neighbours = before.into_iter().chain(self.0.range(net..).next());
            neighbours
                .filter(|(theirs, _)| overlap(**theirs, net))
                .find_map(|(_, holder)| (holder != key).then_some(*holder))
        })
    }

    pub(super) fn take(&mut self, key: SubnetKey) {
        self.0.extend(key.nets().map(|net| (net, key)));
    }

    pub(super) fn free(&mut self, key: &SubnetKey) {
        for net in key.nets() {
            self.0.remove(&net);
        }
    }
}
