//! The ports of the pods' bridge, which is the one that has the subnet's gateway address.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use anyhow::{Context, Result};
use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::Handle;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcMessage};
use tracing::debug;

use crate::netlink::address::ip_of;
use crate::netlink::link::{self, Link, LinkKind};

/// A port of the pods' bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPort {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Whether flows may skip the host stack here, or why not.
    pub shortcut: Result<(), Obstacle>,
}

impl PodPort {
    /// Whether flows may skip the host stack here.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.shortcut.is_ok()
    }
}

/// Why flows cannot skip the host stack at a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It is not a veth into another network namespace: BPF cannot deliver to its other end.
    NoPeer,
    /// A qdisc of this kind shapes or filters its traffic (the bandwidth CNI plugin, for example).
    Qdisc(String),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPeer => f.write_str("it is not a veth into another network namespace"),
            Self::Qdisc(kind) => write!(f, "it has a {kind} qdisc"),
        }
    }
}

/// Lists the ports of the bridges that have an address in one of these subnets.
pub(super) async fn dump(handle: &Handle, subnets: &[IpNet]) -> Result<Vec<PodPort>> {
    // One dump after the other: the kernel refuses a second one on the same socket with EBUSY.
    let links = link::list(handle).await.context("listing interfaces")?;
    let addresses: Vec<_> =
        handle.address().get().execute().try_collect().await.context("listing addresses")?;
    let qdiscs: Vec<_> = handle.qdisc().get().execute().try_collect().await.context("listing qdiscs")?;
    Ok(of(&links, &addresses, &qdiscs, subnets))
}

fn of(links: &[Link], addresses: &[AddressMessage], qdiscs: &[TcMessage], subnets: &[IpNet]) -> Vec<PodPort> {
    let is_gateway = |ip: &IpAddr| subnets.iter().any(|subnet| subnet.contains(ip));
    let gateways: BTreeSet<u32> = addresses
        .iter()
        .filter(|address| ip_of(address).is_some_and(|ip| is_gateway(&ip)))
        .map(|address| address.header.index)
        .collect();
    let bridges: BTreeSet<u32> = links
        .iter()
        .filter(|link| link.kind == LinkKind::Bridge && gateways.contains(&link.index))
        .map(|link| link.index)
        .collect();
    links
        .iter()
        .filter(|link| link.controller.is_some_and(|bridge| bridges.contains(&bridge)))
        .map(|link| port(link, qdiscs))
        .collect()
}

fn port(link: &Link, qdiscs: &[TcMessage]) -> PodPort {
    let port = PodPort { index: link.index, name: link.name.clone(), shortcut: shortcut(link, qdiscs) };
    if let Err(obstacle) = &port.shortcut {
        debug!(port = port.name, "left to the host stack: {obstacle}");
    }
    port
}

fn shortcut(link: &Link, qdiscs: &[TcMessage]) -> Result<(), Obstacle> {
    if link.kind != LinkKind::Veth || !link.leads_to_other_namespace {
        return Err(Obstacle::NoPeer);
    }
    let here = |qdisc: &&TcMessage| u32::try_from(qdisc.header.index) == Ok(link.index);
    let kinds = qdiscs.iter().filter(here).filter_map(|qdisc| {
        qdisc.attributes.iter().find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind.as_str()),
            _ => None,
        })
    });
    // clsact holds programs and shapes nothing.
    match kinds.into_iter().find(|kind| !matches!(*kind, "noqueue" | "clsact")) {
        Some(kind) => Err(Obstacle::Qdisc(kind.to_owned())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::address::AddressAttribute;

    use super::*;

    const SUBNETS: [&str; 2] = ["10.5.7.0/24", "fd44:0:0:7::/64"];
    const BRIDGE: u32 = 2;

    fn subnets() -> [IpNet; 2] {
        SUBNETS.map(|subnet| subnet.parse().unwrap())
    }

    fn link(index: u32, kind: LinkKind) -> Link {
        Link { index, kind, name: format!("if{index}"), ..Link::default() }
    }

    /// Returns a veth on the bridge. `elsewhere`: its other end is in another namespace.
    fn port(index: u32, bridge: u32, elsewhere: bool) -> Link {
        let veth = link(index, LinkKind::Veth);
        Link { controller: Some(bridge), leads_to_other_namespace: elsewhere, ..veth }
    }

    fn gateway(index: u32, address: &str) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.attributes = vec![AddressAttribute::Local(address.parse().unwrap())];
        message
    }

    fn qdisc(index: i32, kind: &str) -> TcMessage {
        let mut message = TcMessage::default();
        message.header.index = index;
        message.attributes = vec![TcAttribute::Kind(kind.to_owned())];
        message
    }

    /// Returns the ports found among these links and the pods' bridge: index, and whether flows may skip the
    /// host stack.
    fn found(links: &[Link], qdiscs: &[TcMessage]) -> Vec<(u32, Result<(), Obstacle>)> {
        let links = [&[link(BRIDGE, LinkKind::Bridge)], links].concat();
        let addresses = [gateway(1, "10.9.0.1"), gateway(BRIDGE, "10.5.7.1")];
        let ports = of(&links, &addresses, qdiscs, &subnets());
        ports.into_iter().map(|port| (port.index, port.shortcut)).collect()
    }

    #[test]
    fn ports_are_those_of_the_bridge_with_the_gateway_address() {
        let other_bridge = link(3, LinkKind::Bridge);
        let beside = [link(4, LinkKind::Veth), port(5, 3, true), port(6, 99, true), other_bridge];
        assert_eq!(found(&beside, &[]), []);
        assert_eq!(found(&[port(7, BRIDGE, true), port(8, BRIDGE, true)], &[]), [(7, Ok(())), (8, Ok(()))]);
        let no_bridge = [link(1, LinkKind::Other), port(7, 1, true)];
        let addresses = [gateway(1, "10.5.7.1")];
        assert_eq!(of(&no_bridge, &addresses, &[], &subnets()), [], "the device is not a bridge");
    }

    #[test]
    fn flows_do_not_skip_the_stack_at_ports_without_a_peer_or_with_a_qdisc() {
        let shaped = |kind: &str| Err(Obstacle::Qdisc(kind.to_owned()));
        let on = |kinds: &[&str]| kinds.iter().map(|kind| qdisc(7, kind)).collect::<Vec<_>>();
        for (description, qdiscs, expected) in [
            ("no qdisc", on(&[]), Ok(())),
            ("a qdisc without a queue", on(&["noqueue"]), Ok(())),
            ("programs", on(&["noqueue", "clsact"]), Ok(())),
            ("the bandwidth plugin, to the pod", on(&["tbf"]), shaped("tbf")),
            ("the bandwidth plugin, from the pod", on(&["noqueue", "ingress"]), shaped("ingress")),
            ("a qdisc of another port", vec![qdisc(8, "tbf")], Ok(())),
        ] {
            assert_eq!(found(&[port(7, BRIDGE, true)], &qdiscs), [(7, expected)], "{description}");
        }
        let dummy = Link { controller: Some(BRIDGE), ..link(7, LinkKind::Other) };
        for closed in [port(7, BRIDGE, false), dummy] {
            assert_eq!(found(&[closed], &[]), [(7, Err(Obstacle::NoPeer))]);
        }
    }
}
