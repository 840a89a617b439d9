//! The other nodes, and how packets get there. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use flannel_common::lease::{DIRECT, ENDED, NETWORK, NODE, OWN};
use ipnet::IpNet;
use serde::Serialize;

use super::model::{NetworkStatus, PeerStatus, Way};
use crate::dataplane::bpf::dry_run::known::Held;
use crate::mac::Mac;
use crate::netlink::route::Hop;
use crate::peer::Peer;

/// What decides on the ways.
pub(super) struct Ways<'a> {
    /// The way of all packets, if the backend has no routes to nodes.
    pub(super) only: Option<Way>,
    /// The next hops of the main table.
    pub(super) hops: &'a BTreeMap<IpNet, Hop>,
    /// The vxlan devices, by index.
    pub(super) overlays: BTreeSet<u32>,
    /// The leases in the maps of programs that are attached.
    pub(super) held: Option<&'a BTreeMap<IpNet, Held>>,
}

impl Ways<'_> {
    /// Returns whether the maps have this subnet of another node.
    pub(super) fn is_in_maps(&self, subnet: &IpNet) -> bool {
        self.held.and_then(|held| held.get(subnet)).is_some_and(is_of_other)
    }

    /// Returns the other nodes, by subnet: those in the maps, and those that the agent knew.
    pub(super) fn peers(&self, known: Vec<Peer>) -> Vec<PeerStatus> {
        let mut peers: BTreeMap<IpNet, (IpAddr, Option<Mac>)> =
            known.into_iter().map(|peer| (peer.subnet, (peer.public_ip, peer.vtep_mac))).collect();
        if let Some(held) = self.held {
            // The file is written some time after the maps: who has just gone is still in it.
            peers.retain(|subnet, _| held.contains_key(subnet) || self.hops.contains_key(subnet));
            let others = held.iter().filter(|(_, lease)| is_of_other(lease));
            peers.extend(others.map(|(subnet, lease)| (*subnet, (lease.public_ip, Some(lease.vtep_mac)))));
        }
        let peers = peers.into_iter().map(|(subnet, (public_ip, mac))| PeerStatus {
            subnet: subnet.to_string(),
            public_ip,
            mac,
            way: self.only.unwrap_or_else(|| self.way(subnet, public_ip)),
        });
        peers.collect()
    }

    fn way(&self, subnet: IpNet, public_ip: IpAddr) -> Way {
        let is_held =
            || self.held.and_then(|held| held.get(&subnet)).is_some_and(|held| held.flags & DIRECT == 0);
        match self.hops.get(&subnet) {
            Some(hop) if self.overlays.contains(&hop.interface) => {
                if is_held() {
                    Way::Vxlan
                } else {
                    Way::Floor
                }
            }
            Some(hop) if hop.gateway == Some(public_ip) => Way::OnLink,
            _ => Way::Missing,
        }
    }
}

/// Returns whether it is a lease of another node that has not ended.
pub(super) const fn is_of_other(lease: &Held) -> bool {
    lease.flags & (OWN | NODE | ENDED | NETWORK) == 0
}

/// The other nodes of all networks.
#[derive(Debug, Serialize)]
pub(super) struct PeerList {
    schema: u32,
    networks: Vec<PeersOfNetwork>,
}

#[derive(Debug, Serialize)]
struct PeersOfNetwork {
    network: Option<String>,
    peers: Vec<PeerStatus>,
}

impl PeerList {
    pub(super) fn of(schema: u32, networks: Vec<NetworkStatus>) -> Self {
        let peers = |NetworkStatus { network, peers, .. }| PeersOfNetwork { network, peers };
        Self { schema, networks: networks.into_iter().map(peers).collect() }
    }
}

/// Writes a line for each node. Networks have headings if there are several.
impl fmt::Display for PeerList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for PeersOfNetwork { network, peers } in &self.networks {
            if self.networks.len() > 1 {
                writeln!(f, "{}", network.as_deref().unwrap_or("another network"))?;
            }
            peers.iter().try_for_each(|peer| writeln!(f, "{peer}"))?;
        }
        Ok(())
    }
}

impl fmt::Display for PeerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subnet, public_ip, mac, way } = self;
        let mac = mac.map_or_else(|| "-".to_owned(), |mac| mac.to_string());
        write!(f, "{subnet:<18} {:<15} {mac:<17} {}", public_ip.to_string(), way.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_a_node_is_by_route_and_map() {
        let net = |number: u8| IpNet::new([10, 5, number, 0].into(), 24).unwrap();
        let ip = |number: u8| IpAddr::from([192, 168, 64, number]);
        let hop = |interface, gateway| Hop { interface, gateway: Some(gateway), source: None };
        let (overlay, uplink) = (7, 2);
        let hops = BTreeMap::from([
            (net(1), hop(overlay, net(1).addr())),
            (net(2), hop(overlay, net(2).addr())),
            (net(3), hop(uplink, ip(3))),
            (net(4), hop(uplink, ip(99))),
        ]);
        let lease =
            |number, flags| (net(number), Held { public_ip: ip(number), vtep_mac: Mac([number; 6]), flags });
        let held =
            BTreeMap::from([lease(1, 0), lease(3, DIRECT), lease(4, 0), lease(9, OWN), lease(8, ENDED)]);
        let peer = |number| Peer { subnet: net(number), public_ip: ip(number), vtep_mac: None };
        let ways = |held, only| {
            let ways = Ways { only, hops: &hops, overlays: BTreeSet::from([overlay]), held };
            let peers = ways.peers([5, 4, 3, 2, 1].map(peer).into());
            peers.into_iter().map(|peer| (peer.subnet, peer.way.name())).collect::<Vec<_>>()
        };
        let expected = |names: [&'static str; 5]| {
            (1..).zip(names).map(|(number, name)| (net(number).to_string(), name)).collect::<Vec<_>>()
        };
        let with_bpf = expected(["vxlan", "floor", "on-link", "missing", ""]);
        assert_eq!(ways(Some(&held), None), with_bpf[..4]);
        assert_eq!(ways(None, None), expected(["floor", "floor", "on-link", "missing", "missing"]));
        assert_eq!(ways(None, Some(Way::Udp)), expected(["udp"; 5]));
    }

    #[test]
    fn ten_thousand_nodes_are_ten_thousand_lines() {
        let peer = |number: u16| PeerStatus {
            subnet: format!("10.{}.{}.0/24", number / 256, number % 256),
            public_ip: IpAddr::from([192, 168, 0, 1]),
            mac: None,
            way: Way::Vxlan,
        };
        let network = NetworkStatus { peers: (0..10_000).map(peer).collect(), ..NetworkStatus::default() };
        let text = PeerList::of(1, vec![network]).to_string();
        assert_eq!(text.lines().count(), 10_000);
        assert_eq!(text.lines().nth(258), Some("10.1.2.0/24        192.168.0.1     -                 vxlan"));
    }
}
