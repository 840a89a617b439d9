//! The interfaces on the way of pods' packets, and what others have put there. The pods' bridge is the one that has the
//! subnet's gateway address.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::Handle;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcMessage};

use super::classifier;
use crate::dataplane::obstacle::{Direction, Interface, Peer, Program, Role};
use crate::netlink::address::ip_of;
use crate::netlink::family_of;
use crate::netlink::link::{self, Link, LinkKind, Xdp};

/// Lists the interfaces of the pods in these subnets, and those in `own`, which are devices and uplinks by index. Filters of
/// the priority `ours` are the agent's. What tcx runs is left out.
pub(super) async fn survey(
    handle: &Handle,
    subnets: &[IpNet],
    own: &[(u32, Role)],
    ours: u16,
) -> Result<Vec<Interface>> {
    let (links, addresses) = links_and_addresses(handle).await?;
    let qdiscs: Vec<_> = handle.qdisc().get().execute().try_collect().await.context("listing qdiscs")?;
    let mut interfaces = Vec::new();
    for (link, role) in roles(&links, &addresses, subnets, own) {
        let qdiscs = qdiscs_of(link, &qdiscs);
        let has_filters = qdiscs.iter().any(|kind| matches!(kind.as_str(), "clsact" | "ingress"));
        let mut interface = Interface {
            role,
            index: link.index,
            name: link.name.clone(),
            qdiscs,
            ingress: Vec::new(),
            egress: Vec::new(),
            xdp: link.xdp.is_some(),
            peer: if role == Role::Port { peer(handle, link).await } else { Peer::None },
        };
        if has_filters {
            interface.ingress = filters(handle, link.index, Direction::Ingress, ours).await?;
            interface.egress = filters(handle, link.index, Direction::Egress, ours).await?;
        }
        interfaces.push(interface);
    }
    Ok(interfaces)
}

/// Returns the bridge of the pods in this subnet, if there is one.
///
/// # Errors
/// The kernel does not answer.
pub async fn bridge_of(handle: &Handle, subnet: IpNet) -> Result<Option<Link>> {
    // Ports have no IPv4 addresses, and each would be a link to list.
    let mut request = handle.address().get();
    request.message_mut().header.family = family_of(subnet.network());
    let addresses: Vec<_> = request.execute().try_collect().await.context("listing addresses")?;
    for index in with_gateway(&addresses, &[subnet]) {
        let link = link::by_index(handle, index).await.context("asking for an interface")?;
        if let Some(bridge) = link.filter(|link| link.kind == LinkKind::Bridge) {
            return Ok(Some(bridge));
        }
    }
    Ok(None)
}

async fn links_and_addresses(handle: &Handle) -> Result<(Vec<Link>, Vec<AddressMessage>)> {
    // One dump after the other: the kernel refuses a second one on the same socket with EBUSY.
    let links = link::list(handle).await.context("listing interfaces")?;
    let addresses = handle.address().get().execute().try_collect().await.context("listing addresses")?;
    Ok((links, addresses))
}

/// Returns the indexes of the interfaces that have an address of one of the subnets.
fn with_gateway(addresses: &[AddressMessage], subnets: &[IpNet]) -> BTreeSet<u32> {
    let is_gateway = |ip: &IpAddr| subnets.iter().any(|subnet| subnet.contains(ip));
    let with_gateway = addresses.iter().filter(|address| ip_of(address).is_some_and(|ip| is_gateway(&ip)));
    with_gateway.map(|address| address.header.index).collect()
}

/// Returns the bridges that have an address of one of the subnets.
fn bridges<'a>(
    links: &'a [Link],
    addresses: &[AddressMessage],
    subnets: &[IpNet],
) -> impl Iterator<Item = &'a Link> {
    let with_gateway = with_gateway(addresses, subnets);
    links.iter().filter(move |link| link.kind == LinkKind::Bridge && with_gateway.contains(&link.index))
}

fn roles<'a>(
    links: &'a [Link],
    addresses: &[AddressMessage],
    subnets: &[IpNet],
    own: &[(u32, Role)],
) -> Vec<(&'a Link, Role)> {
    let bridges: BTreeSet<u32> = bridges(links, addresses, subnets).map(|bridge| bridge.index).collect();
    let role = |link: &Link| match own.iter().find(|(index, _)| *index == link.index) {
        Some((_, role)) => Some(*role),
        None if bridges.contains(&link.index) => Some(Role::Bridge),
        // A port that is down forwards nothing, so that nothing may pass it by.
        None if !link.up => None,
        None => link.controller.filter(|bridge| bridges.contains(bridge)).map(|_| Role::Port),
    };
    links.iter().filter_map(|link| Some((link, role(link)?))).collect()
}

/// Reads the other end of a port, which is in the pod.
async fn peer(handle: &Handle, link: &Link) -> Peer {
    let (LinkKind::Veth, Some(namespace), Some(index)) = (&link.kind, link.peer_namespace, link.peer) else {
        return Peer::None;
    };
    match link::by_index_in(handle, namespace, index).await {
        Ok(None) => Peer::None,
        Ok(Some(Link { xdp: Some(Xdp::Driver), .. })) => Peer::Xdp,
        Ok(Some(Link { mac, .. })) => mac.map_or(Peer::None, Peer::Plain),
        Err(error) => Peer::Unknown(error.to_string()),
    }
}

async fn filters(handle: &Handle, interface: u32, direction: Direction, ours: u16) -> Result<Vec<Program>> {
    let priorities = classifier::priorities(handle, interface, direction).await?;
    let program = |priority| if priority == ours { Program::Ours } else { Program::Filter };
    Ok(priorities.into_iter().map(program).collect())
}

fn qdiscs_of(link: &Link, qdiscs: &[TcMessage]) -> Vec<String> {
    let here = |qdisc: &&TcMessage| u32::try_from(qdisc.header.index) == Ok(link.index);
    let kinds = qdiscs.iter().filter(here).filter_map(|qdisc| {
        qdisc.attributes.iter().find_map(|attribute| match attribute {
            TcAttribute::Kind(kind) => Some(kind.clone()),
            _ => None,
        })
    });
    kinds.collect()
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
        Link { index, kind, name: format!("if{index}"), up: true, ..Link::default() }
    }

    fn port(index: u32, bridge: u32) -> Link {
        Link { controller: Some(bridge), ..link(index, LinkKind::Veth) }
    }

    fn gateway(index: u32, address: &str) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.attributes = vec![AddressAttribute::Local(address.parse().unwrap())];
        message
    }

    fn found(links: &[Link], addresses: &[AddressMessage]) -> Vec<(u32, Role)> {
        let own = [(10, Role::Overlay), (11, Role::Uplink { xdp: false })];
        roles(links, addresses, &subnets(), &own).into_iter().map(|(link, role)| (link.index, role)).collect()
    }

    #[test]
    fn ports_are_those_of_the_bridge_with_the_gateway_address() {
        let addresses = [gateway(1, "10.9.0.1"), gateway(BRIDGE, "10.5.7.1")];
        let bridge = link(BRIDGE, LinkKind::Bridge);
        let beside = [link(3, LinkKind::Bridge), link(4, LinkKind::Veth), port(5, 3), port(6, 99)];
        let with_bridge = [std::slice::from_ref(&bridge), &beside[..]].concat();
        assert_eq!(found(&with_bridge, &addresses), [(BRIDGE, Role::Bridge)]);
        let ports = [bridge.clone(), port(7, BRIDGE), Link { kind: LinkKind::Other, ..port(8, BRIDGE) }];
        let expected = [(BRIDGE, Role::Bridge), (7, Role::Port), (8, Role::Port)];
        assert_eq!(found(&ports, &addresses), expected);
        let down = [bridge.clone(), Link { up: false, ..port(7, BRIDGE) }];
        assert_eq!(found(&down, &addresses), [(BRIDGE, Role::Bridge)]);
        let no_bridge = [link(1, LinkKind::Other), port(7, 1)];
        assert_eq!(found(&no_bridge, &[gateway(1, "10.5.7.1")]), [], "the device is not a bridge");
    }

    #[test]
    fn devices_and_uplinks_are_found_by_index() {
        let links = [link(10, LinkKind::Other), link(11, LinkKind::Bridge), link(12, LinkKind::Other)];
        let expected = [(10, Role::Overlay), (11, Role::Uplink { xdp: false })];
        assert_eq!(found(&links, &[gateway(11, "10.5.7.1")]), expected);
    }

    #[test]
    fn qdiscs_are_those_of_the_interface() {
        let qdiscs = [(7, "noqueue"), (8, "tbf"), (7, "clsact")].map(|(index, kind)| {
            let mut message = TcMessage::default();
            message.header.index = index;
            message.attributes = vec![TcAttribute::Kind(kind.to_owned())];
            message
        });
        assert_eq!(qdiscs_of(&port(7, BRIDGE), &qdiscs), ["noqueue", "clsact"]);
    }
}
