//! Flows that stay in the host stack, since rules there look at each of their packets. Pure.

use std::collections::BTreeSet;

use flannel_common::abi::MAX_KEPT;
use flannel_common::address::Address as _;
use flannel_common::kept::KeptEnd;
use ipnet::IpNet;

use crate::netfilter::judge::pods::{Look, Selector};

/// Ranges of so many ports are told by each port. Longer ones count as all ports.
const MOST_PORTS: u16 = 256;
const PROTOCOLS: [u8; 2] = [6, 17];
/// Bits before an IPv4 address that is mapped.
const MAPPED_BITS: u32 = 96;

/// Ends of flows that begin with these bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeptPrefix {
    /// The end.
    pub end: KeptEnd,
    /// The number of bits that count.
    pub bits: u32,
}

/// Returns ends of the flows that these rules look at, for the programs. If there are too many to tell apart, these are all.
#[must_use]
pub fn kept(looks: &[Look]) -> BTreeSet<KeptPrefix> {
    let selectors: BTreeSet<_> = looks.iter().flat_map(|look| &look.packets).collect();
    let ends: BTreeSet<_> = selectors.into_iter().flat_map(ends).collect();
    if ends.len() <= MAX_KEPT {
        return ends;
    }
    let of_family = |family| PROTOCOLS.map(|protocol| KeptPrefix::new(family, protocol, 0, [0; 16], 0));
    [4, 6].into_iter().flat_map(of_family).collect()
}

impl KeptPrefix {
    const fn new(family: u8, protocol: u8, port: u16, address: [u8; 16], length: u32) -> Self {
        let end = KeptEnd { family, protocol, port: port.to_be_bytes(), address };
        Self { end, bits: KeptEnd::BITS_BEFORE_ADDRESS + length }
    }
}

/// Returns the better known end of the flows: by its port, or else by its address.
fn ends(selector: &Selector) -> Vec<KeptPrefix> {
    let Selector { protocol, source, destination, source_ports, destination_ports } = *selector;
    let sides = [(destination, destination_ports), (source, source_ports)];
    let (net, ports) = sides
        .into_iter()
        .min_by_key(|(net, (first, last))| (last - first, 128 - u32::from(net.prefix_len())))
        .unwrap_or(sides[0]);
    let (family, address, length) = match net {
        IpNet::V4(net) => (4, net.network().octets().mapped(), MAPPED_BITS + u32::from(net.prefix_len())),
        IpNet::V6(net) => (6, net.network().octets(), net.prefix_len().into()),
    };
    let (first, last) = if ports.1 - ports.0 < MOST_PORTS { ports } else { (0, 0) };
    let protocols = protocol.map_or(PROTOCOLS.to_vec(), |protocol| vec![protocol]);
    let each =
        |protocol| (first..=last).map(move |port| KeptPrefix::new(family, protocol, port, address, length));
    protocols.into_iter().flat_map(each).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const ALL: (u16, u16) = (0, u16::MAX);

    fn look(packets: impl IntoIterator<Item = Selector>) -> Look {
        Look { rule: String::new(), packets: packets.into_iter().collect() }
    }

    fn selector(protocol: Option<u8>, to: &str, ports: (u16, u16)) -> Selector {
        let destination: IpNet = to.parse().unwrap();
        let any: IpAddr = if destination.addr().is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let source = IpNet::new(any, 0).unwrap();
        Selector { protocol, source, destination, source_ports: ALL, destination_ports: ports }
    }

    fn shown(looks: &[Look]) -> Vec<String> {
        let shown = |KeptPrefix { end, bits }: &KeptPrefix| {
            let (address, port) = (std::net::Ipv6Addr::from(end.address), u16::from_be_bytes(end.port));
            format!(
                "v{} {} {address}/{} {port}",
                end.family,
                end.protocol,
                bits - KeptEnd::BITS_BEFORE_ADDRESS
            )
        };
        kept(looks).iter().map(shown).collect()
    }

    #[test]
    fn flows_are_told_by_their_better_known_end() {
        for (selector, expected) in [
            (
                selector(Some(6), "0.0.0.0/0", (80, 81)),
                &["v4 6 ::ffff:0.0.0.0/96 80", "v4 6 ::ffff:0.0.0.0/96 81"][..],
            ),
            (selector(Some(17), "10.5.7.0/24", (53, 53)), &["v4 17 ::ffff:10.5.7.0/120 53"]),
            (selector(None, "fd44::/64", ALL), &["v6 6 fd44::/64 0", "v6 17 fd44::/64 0"]),
            (selector(None, "::/0", ALL), &["v6 6 ::/0 0", "v6 17 ::/0 0"]),
            (selector(Some(6), "10.5.7.3/32", (500, 65535)), &["v4 6 ::ffff:10.5.7.3/128 0"]),
        ] {
            assert_eq!(shown(&[look([selector])]), expected, "{selector}");
            // The other direction is the same flow.
            let Selector { protocol, source, destination, source_ports, destination_ports } = selector;
            let back = Selector {
                protocol,
                source: destination,
                destination: source,
                source_ports: destination_ports,
                destination_ports: source_ports,
            };
            assert_eq!(shown(&[look([back])]), expected, "{back}");
        }
    }

    #[test]
    fn too_many_are_all() {
        let of = |number: u16| selector(Some(6), "0.0.0.0/0", (number, number));
        let most = MAX_KEPT as u16;
        assert_eq!(shown(&[look((0..most).map(of))]).len(), MAX_KEPT);
        assert_eq!(
            shown(&[look((0..=most).map(of))]),
            ["v4 6 ::/0 0", "v4 17 ::/0 0", "v6 6 ::/0 0", "v6 17 ::/0 0"]
        );
        assert_eq!(shown(&[]), [""; 0]);
    }
}
