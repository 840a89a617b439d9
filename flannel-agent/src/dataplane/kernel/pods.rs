//! Where this node's pods are plugged in: the ports of the bridge that holds the subnet's gateway address.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result};
use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::Handle;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::tc::{TcAttribute, TcMessage};
use tracing::debug;

use super::address;

/// A port of the pods' bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPort {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Whether packets may go past the host stack here, or why not.
    pub shortcut: Result<(), Obstacle>,
}

impl PodPort {
    /// Whether packets may go past the host stack here.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.shortcut.is_ok()
    }
}

/// Why a port is left to the host stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It is no veth into another network namespace: nothing can be handed to its other end.
    NoPeer,
    /// Somebody shapes or filters traffic here (the bandwidth CNI plugin, say) with a qdisc of this kind.
    Qdisc(String),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPeer => f.write_str("it is no veth into another network namespace"),
            Self::Qdisc(kind) => write!(f, "it has a {kind} qdisc"),
        }
    }
}

/// The ports of the bridge, or bridges, with an address in one of these subnets.
pub(super) async fn dump(handle: &Handle, subnets: &[IpNet]) -> Result<Vec<PodPort>> {
    // One dump after the other: the kernel refuses a second one on the same socket with EBUSY.
    let links: Vec<_> = handle.link().get().execute().try_collect().await.context("listing interfaces")?;
    let addresses: Vec<_> =
        handle.address().get().execute().try_collect().await.context("listing addresses")?;
    let qdiscs: Vec<_> = handle.qdisc().get().execute().try_collect().await.context("listing qdiscs")?;
    Ok(of(&links, &addresses, &qdiscs, subnets))
}

fn of(
    links: &[LinkMessage],
    addresses: &[AddressMessage],
    qdiscs: &[TcMessage],
    subnets: &[IpNet],
) -> Vec<PodPort> {
    let gateways: BTreeSet<u32> = addresses
        .iter()
        .filter(|address| {
            address::own(address).is_some_and(|own| subnets.iter().any(|subnet| subnet.contains(&own)))
        })
        .map(|address| address.header.index)
        .collect();
    let bridges: BTreeSet<u32> = links
        .iter()
        .filter(|link| kind(link) == Some(&InfoKind::Bridge) && gateways.contains(&link.header.index))
        .map(|link| link.header.index)
        .collect();
    links
        .iter()
        .filter(|link| bridge(link).is_some_and(|bridge| bridges.contains(&bridge)))
        .map(|link| port(link, qdiscs))
        .collect()
}

fn port(link: &LinkMessage, qdiscs: &[TcMessage]) -> PodPort {
    let index = link.header.index;
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    let port = PodPort { index, name: name.unwrap_or_default(), shortcut: shortcut(link, qdiscs) };
    if let Err(obstacle) = &port.shortcut {
        debug!(port = port.name, "left to the host stack: {obstacle}");
    }
    port
}

fn shortcut(link: &LinkMessage, qdiscs: &[TcMessage]) -> Result<(), Obstacle> {
    let leads_elsewhere =
        link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::LinkNetNsId(_)));
    if kind(link) != Some(&InfoKind::Veth) || !leads_elsewhere {
        return Err(Obstacle::NoPeer);
    }
    let here = |qdisc: &&TcMessage| u32::try_from(qdisc.header.index) == Ok(link.header.index);
    let kinds = qdiscs.iter().filter(here).filter_map(|qdisc| {
        qdisc.attributes.iter().find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind.as_str()),
            _ => None,
        })
    });
    // clsact holds programs, ours where the kernel has no tcx; it shapes nothing.
    match kinds.into_iter().find(|kind| !matches!(*kind, "noqueue" | "clsact")) {
        Some(kind) => Err(Obstacle::Qdisc(kind.to_owned())),
        None => Ok(()),
    }
}

fn kind(link: &LinkMessage) -> Option<&InfoKind> {
    let infos = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    })?;
    infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })
}

fn bridge(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    })
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

    fn link(index: u32, kind: InfoKind, more: &[LinkAttribute]) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes = vec![
            LinkAttribute::IfName(format!("if{index}")),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]),
        ];
        link.attributes.extend_from_slice(more);
        link
    }

    /// A veth on the bridge; `elsewhere`: its other end is in another namespace.
    fn port(index: u32, bridge: u32, elsewhere: bool) -> LinkMessage {
        let mut more = vec![LinkAttribute::Controller(bridge)];
        more.extend(elsewhere.then_some(LinkAttribute::LinkNetNsId(0)));
        link(index, InfoKind::Veth, &more)
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

    /// The indexes of the ports, and whether they are open, where these links are beside the pods' bridge.
    fn found(links: &[LinkMessage], qdiscs: &[TcMessage]) -> Vec<(u32, Result<(), Obstacle>)> {
        let links = [&[link(BRIDGE, InfoKind::Bridge, &[])], links].concat();
        let addresses = [gateway(1, "10.9.0.1"), gateway(BRIDGE, "10.5.7.1")];
        let ports = of(&links, &addresses, qdiscs, &subnets());
        ports.into_iter().map(|port| (port.index, port.shortcut)).collect()
    }

    #[test]
    fn ports_are_those_of_the_bridge_with_the_gateway_s_address() {
        let other_bridge = link(3, InfoKind::Bridge, &[]);
        let beside = [link(4, InfoKind::Veth, &[]), port(5, 3, true), port(6, 99, true), other_bridge];
        assert_eq!(found(&beside, &[]), []);
        assert_eq!(found(&[port(7, BRIDGE, true), port(8, BRIDGE, true)], &[]), [(7, Ok(())), (8, Ok(()))]);
        let no_bridge = [link(1, InfoKind::Dummy, &[]), port(7, 1, true)];
        let addresses = [gateway(1, "10.5.7.1")];
        assert_eq!(of(&no_bridge, &addresses, &[], &subnets()), [], "the device is no bridge");
    }

    #[test]
    fn a_port_that_leads_nowhere_else_or_is_shaped_is_left_alone() {
        let shaped = |kind: &str| Err(Obstacle::Qdisc(kind.to_owned()));
        let on = |kinds: &[&str]| kinds.iter().map(|kind| qdisc(7, kind)).collect::<Vec<_>>();
        for (description, qdiscs, expected) in [
            ("no qdisc", on(&[]), Ok(())),
            ("none that queues", on(&["noqueue"]), Ok(())),
            ("programs", on(&["noqueue", "clsact"]), Ok(())),
            ("the bandwidth plugin, to the pod", on(&["tbf"]), shaped("tbf")),
            ("the bandwidth plugin, from the pod", on(&["noqueue", "ingress"]), shaped("ingress")),
            ("another port's", vec![qdisc(8, "tbf")], Ok(())),
        ] {
            assert_eq!(found(&[port(7, BRIDGE, true)], &qdiscs), [(7, expected)], "{description}");
        }
        let dummy = link(7, InfoKind::Dummy, &[LinkAttribute::Controller(BRIDGE)]);
        for closed in [port(7, BRIDGE, false), dummy] {
            assert_eq!(found(&[closed], &[]), [(7, Err(Obstacle::NoPeer))]);
        }
    }
}
