//! Finds the node that has a pod's address.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use ipnet::{IpNet, Ipv4Net};

use crate::peer::Peer;

/// The other nodes by subnet.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    nodes: HashMap<Ipv4Net, SocketAddrV4>,
    lengths: BTreeSet<u8>,
}

impl Nodes {
    /// Builds the table from the IPv4 peers. Each node is reached at its public IP and this port.
    pub(super) fn new(peers: &[Peer], port: u16) -> Self {
        let node = |peer: &Peer| match (peer.subnet, peer.public_ip) {
            (IpNet::V4(subnet), IpAddr::V4(ip)) => Some((subnet.trunc(), SocketAddrV4::new(ip, port))),
            _ => None,
        };
        let nodes: HashMap<_, _> = peers.iter().filter_map(node).collect();
        let lengths = nodes.keys().map(Ipv4Net::prefix_len).collect();
        Self { nodes, lengths }
    }

    /// Returns the node whose subnet contains the address; of several, the one with the longest prefix.
    pub(super) fn node_of(&self, address: Ipv4Addr) -> Option<SocketAddrV4> {
        let subnets = self.lengths.iter().rev().filter_map(|len| Ipv4Net::new(address, *len).ok());
        subnets.map(|subnet| subnet.trunc()).find_map(|subnet| self.nodes.get(&subnet).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins() {
        let peers = [
            ("10.5.2.0/24", "192.168.64.2"),
            ("10.5.3.0/24", "192.168.64.3"),
            ("10.5.2.128/25", "192.168.64.4"),
        ]
        .map(|(subnet, ip)| Peer {
            subnet: subnet.parse().unwrap(),
            public_ip: ip.parse().unwrap(),
            vtep_mac: None,
        });
        let nodes = Nodes::new(&peers, 8285);
        for (address, node) in [
            ("10.5.2.1", Some("192.168.64.2:8285")),
            ("10.5.2.127", Some("192.168.64.2:8285")),
            ("10.5.2.128", Some("192.168.64.4:8285")),
            ("10.5.3.255", Some("192.168.64.3:8285")),
            ("10.5.4.0", None),
            ("10.5.1.255", None),
        ] {
            let found = nodes.node_of(address.parse().unwrap());
            assert_eq!(found.map(|node| node.to_string()).as_deref(), node, "{address}");
        }
    }
}
