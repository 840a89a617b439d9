//! VTEP MACs that several nodes have, as cloned machines may. Pure.
//!
//! The kernel's device knows one node for each MAC, and drops what comes with its own. Only the programs tell such nodes apart.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Floor;
use crate::mac::Mac;

impl Floor {
    /// Returns the MACs that several nodes have, each with the gateways of the peers among them. `own`: this node's.
    #[must_use]
    pub fn shared_macs(&self, own: Mac) -> BTreeMap<Mac, Vec<IpAddr>> {
        let mut shared = BTreeMap::<Mac, Vec<IpAddr>>::new();
        // A look at the numbers is enough for most clusters.
        if self.fdb.len() == self.neighbours.len() && !self.fdb.contains_key(&own) {
            return shared;
        }
        for (gateway, mac) in &self.neighbours {
            shared.entry(*mac).or_default().push(*gateway);
        }
        shared.retain(|mac, gateways| *mac == own || gateways.len() > 1);
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Peer;

    #[test]
    fn only_macs_of_several_nodes_are_returned() {
        let mac = |last| Mac([2, 0, 0, 0, 0, last]);
        let gateway = |third| IpAddr::from([10, 5, third, 0]);
        let own = mac(0);
        for (peers, expected) in [
            (vec![], vec![]),
            (vec![1, 2, 3], vec![]),
            (vec![1, 2, 1], vec![(mac(1), vec![gateway(1), gateway(3)])]),
            (vec![1, 0, 3], vec![(own, vec![gateway(2)])]),
            (
                vec![4, 0, 4, 0],
                vec![(own, vec![gateway(2), gateway(4)]), (mac(4), vec![gateway(1), gateway(3)])],
            ),
        ] {
            let peers: Vec<_> = (1..)
                .zip(peers)
                .map(|(third, last)| Peer {
                    subnet: format!("10.5.{third}.0/24").parse().unwrap(),
                    public_ip: [192, 168, 64, third].into(),
                    vtep_mac: Some(mac(last)),
                })
                .collect();
            assert_eq!(Floor::of(&peers, true).shared_macs(own), expected.into_iter().collect(), "{peers:?}");
        }
    }
}
