//! What the host does with the packets that it sends and receives itself. Outer packets that BPF sends and unwraps pass it by:
//! IPsec, packet filters, and rules that route by a mark, which only packet filters set on outer packets. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Closes, Obstacle};
use crate::netfilter::judge::{Fate, Packets, judge};
use crate::netfilter::rules::Table;
use crate::netlink::xfrm::{Direction, Policy};

/// The outer packets of a vxlan device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outer {
    /// The node's address.
    pub local: IpAddr,
    /// UDP port of all nodes.
    pub port: u16,
    /// Index of the uplink.
    pub uplink: u32,
    /// Its name.
    pub uplink_name: String,
}

/// A mark that a routing rule names, and where it takes outer packets: the index of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MarkedWay {
    /// The mark; 0 for packets without one.
    pub mark: u32,
    /// The interface by which they leave.
    pub interface: u32,
}

/// What the host's own packets meet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Underlay {
    /// IPsec policies.
    pub policies: Vec<Policy>,
    /// The ways of outer packets that rules name.
    pub ways: BTreeSet<MarkedWay>,
}

impl Outer {
    /// Returns what the host's packet filters do with outer packets to these peers; `None` if they do not concern them, since
    /// over IPv6 the kernel wraps anyway.
    #[must_use]
    pub fn fate(&self, rules: &[Table], peers: &BTreeSet<IpAddr>) -> Option<Fate> {
        let IpAddr::V4(source) = self.local else { return None };
        let destinations = peers.iter().filter_map(|peer| match peer {
            IpAddr::V4(peer) => Some(*peer),
            IpAddr::V6(_) => None,
        });
        let destinations = destinations.collect();
        let packets =
            Packets { source, destinations: &destinations, port: self.port, interface: &self.uplink_name };
        Some(judge(rules, packets))
    }

    /// Returns why BPF must not pass by the host's own rules, with these addresses of peers. `fate`: what packet filters do, if
    /// that is known.
    #[must_use]
    pub fn obstacles(
        &self,
        underlay: &Underlay,
        fate: Option<&Fate>,
        peers: &BTreeSet<IpAddr>,
    ) -> Vec<Obstacle> {
        let mut found = self.ipsec(underlay, peers);
        let filter = fate.and_then(|fate| match (&fate.stopped, &fate.changed) {
            (Some(rule), _) => Some(format!("a firewall rule may stop outer packets ({rule})")),
            (None, Some(rule)) => Some(format!("a firewall rule may change outer packets ({rule})")),
            (None, None) => None,
        });
        let way = underlay.ways.iter().find(|way| way.interface != self.uplink);
        let way = way.map(|MarkedWay { mark, .. }| match mark {
            0 => format!("a rule takes outer packets off {} (ip rule)", self.uplink_name),
            mark => format!(
                "a rule takes packets with the mark {mark:#x} off {} (ip rule), and firewall rules may mark outer packets so \
                 (mangle OUTPUT)",
                self.uplink_name
            ),
        });
        found.extend(filter.into_iter().chain(way).map(|what| Obstacle { what, closes: Closes::WRAPPING }));
        found
    }

    /// Over IPv6 the kernel wraps anyway.
    fn ipsec(&self, underlay: &Underlay, peers: &BTreeSet<IpAddr>) -> Vec<Obstacle> {
        let applies = |direction| {
            let mut policies = underlay.policies.iter().filter(|policy| policy.direction == direction);
            policies.any(|policy| self.is_concerned(policy, peers))
        };
        let mut found = Vec::new();
        if self.local.is_ipv4() && applies(Direction::Out) {
            let what = "IPsec policies encrypt or block the outer packets (ip xfrm policy)".to_owned();
            found.push(Obstacle { what, closes: Closes::WRAPPING });
        }
        if applies(Direction::In) {
            let family = if self.local.is_ipv4() { "IPv4" } else { "IPv6" };
            let what =
                format!("IPsec policies apply to received outer packets over {family} (ip xfrm policy)");
            found.push(Obstacle { what, closes: Closes::UNWRAPPING });
        }
        found
    }

    fn is_concerned(&self, policy: &Policy, peers: &BTreeSet<IpAddr>) -> bool {
        let (own, others) = match policy.direction {
            Direction::In => (policy.destination, policy.source),
            Direction::Out => (policy.source, policy.destination),
        };
        let udp = i32::from(policy.protocol);
        let (port, mask) = policy.port;
        own.contains(&self.local)
            && peers.range(others.network()..=others.broadcast()).next().is_some()
            && (udp == 0 || udp == libc::IPPROTO_UDP)
            && port & mask == self.port & mask
            && [0, self.uplink].contains(&policy.interface)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(direction: Direction) -> Policy {
        let nets = ["10.0.0.0/24", "10.0.0.2/32"].map(|net| net.parse().unwrap());
        let [own, peer] = nets;
        let (source, destination) = if direction == Direction::Out { (own, peer) } else { (peer, own) };
        Policy { direction, source, destination, protocol: 17, port: (8472, 0xffff), interface: 0 }
    }

    fn found(policies: Vec<Policy>, ways: &[(u32, u32)], local: &str) -> Vec<Closes> {
        let outer =
            Outer { local: local.parse().unwrap(), port: 8472, uplink: 2, uplink_name: "eth0".to_owned() };
        let ways = ways.iter().map(|&(mark, interface)| MarkedWay { mark, interface }).collect();
        let peers = ["10.0.0.2", "10.0.0.3"].map(|peer| peer.parse().unwrap()).into();
        let found = outer.obstacles(&Underlay { policies, ways }, None, &peers);
        found.into_iter().map(|obstacle| obstacle.closes).collect()
    }

    #[test]
    fn policies_count_that_can_match_outer_packets() {
        let base = policy(Direction::Out);
        let net = |net: &str| net.parse().unwrap();
        for (policy, closes) in [
            (base.clone(), &[Closes::WRAPPING][..]),
            (policy(Direction::In), &[Closes::UNWRAPPING]),
            (Policy { protocol: 0, port: (0, 0), ..base.clone() }, &[Closes::WRAPPING]),
            (Policy { destination: net("0.0.0.0/0"), ..base.clone() }, &[Closes::WRAPPING]),
            (Policy { interface: 2, ..base.clone() }, &[Closes::WRAPPING]),
            (Policy { interface: 3, ..base.clone() }, &[]),
            (Policy { protocol: 6, ..base.clone() }, &[]),
            (Policy { port: (4789, 0xffff), ..base.clone() }, &[]),
            (Policy { source: net("10.0.1.0/24"), ..base.clone() }, &[]),
            (Policy { destination: net("10.0.0.4/32"), ..base.clone() }, &[]),
            (Policy { destination: net("::/0"), ..base }, &[]),
        ] {
            assert_eq!(found(vec![policy.clone()], &[], "10.0.0.1"), closes, "{policy:?}");
        }
    }

    #[test]
    fn ways_count_that_leave_the_uplink() {
        assert_eq!(found(Vec::new(), &[(0, 2), (42, 2)], "10.0.0.1"), []);
        assert_eq!(found(Vec::new(), &[(0, 2), (42, 3), (43, 3)], "10.0.0.1"), [Closes::WRAPPING]);
        assert_eq!(found(Vec::new(), &[(0, 3)], "10.0.0.1"), [Closes::WRAPPING]);
    }
}
