//! Reads what the kernel's forwarding of pods' packets depends on, and hears of its changes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Kernel, neighbour};
use crate::dataplane::forwarding::{Change, Link};
use crate::netlink;
use crate::netlink::link::LinkKind;
use crate::netlink::notifications::Notifications;
use crate::netlink::route::destination_of;

/// Addresses are left out: they come and go with routes.
const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// A subscription to changes of forwarding by others than this agent.
#[derive(Debug)]
pub struct ForwardingChanges(Notifications);

impl ForwardingChanges {
    /// Subscribes.
    ///
    /// # Errors
    /// The netlink socket cannot be opened.
    pub fn open(kernel: &Kernel) -> Result<Self> {
        kernel.changes_by_others(&GROUPS).map(Self).context("subscribing to changes of forwarding")
    }

    /// Waits for the next change. It may be dropped and called again.
    pub async fn next(&mut self) -> Change {
        loop {
            match self.0.next().await {
                NetlinkPayload::InnerMessage(message) => {
                    if let Some(change) = read(&message) {
                        return change;
                    }
                }
                NetlinkPayload::Overrun(_) => return Change::Lost,
                _ => {}
            }
        }
    }
}

impl Kernel {
    /// Returns all interfaces, the MACs of the neighbours of bridges and of those `on_way` that are no vxlan devices, and the ports where
    /// bridges have MACs.
    ///
    /// # Errors
    /// A dump fails.
    pub async fn forwarding(&self, on_way: &BTreeSet<u32>) -> Result<Vec<Change>> {
        let links = {
            let _dumping = self.dumping.lock().await;
            netlink::link::list(&self.handle).await.context("listing interfaces")?
        };
        let has_neighbours = |link: &&netlink::link::Link| match link.kind {
            LinkKind::Bridge => true,
            LinkKind::Vxlan(_) => false,
            _ => on_way.contains(&link.index),
        };
        let interfaces: Vec<_> = links.iter().filter(has_neighbours).map(|link| link.index).collect();
        let mut all: Vec<_> = links.into_iter().map(of_link).collect();
        for interface in interfaces {
            for (family, of) in [
                (AddressFamily::Inet, NeighbourAttribute::IfIndex(interface)),
                (AddressFamily::Inet6, NeighbourAttribute::IfIndex(interface)),
                (AddressFamily::Bridge, NeighbourAttribute::Controller(interface)),
            ] {
                let entries = self.neighbours(family, 0, Some(of)).await;
                let entries = entries.context("listing neighbours and FDB entries")?;
                all.extend(entries.iter().filter_map(|entry| of_neighbour(entry, false)));
            }
        }
        Ok(all)
    }
}

fn read(message: &RouteNetlinkMessage) -> Option<Change> {
    match message {
        RouteNetlinkMessage::NewLink(link) if is_whole(link) => {
            Some(of_link(netlink::link::Link::read(link)))
        }
        RouteNetlinkMessage::DelLink(link) if is_whole(link) => Some(Change::LinkGone(link.header.index)),
        RouteNetlinkMessage::NewNeighbour(entry) => of_neighbour(entry, false),
        RouteNetlinkMessage::DelNeighbour(entry) => of_neighbour(entry, true),
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => of_route(route),
        RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => Some(Change::Rule),
        _ => None,
    }
}

/// Returns whether a message is about an interface, and not about its part in a bridge (net/bridge/br_netlink.c).
fn is_whole(link: &LinkMessage) -> bool {
    link.header.interface_family != AddressFamily::Bridge
}

fn of_link(link: netlink::link::Link) -> Change {
    let netlink::link::Link { index, name, up, mtu, kind, controller: bridge, .. } = link;
    let (is_bridge, is_vxlan) = (kind == LinkKind::Bridge, matches!(kind, LinkKind::Vxlan(_)));
    Change::Link(index, Link { name, up, mtu, bridge, is_bridge, is_vxlan })
}

/// Reads an entry of a bridge's FDB, or a neighbour that is resolved. Nothing follows from a neighbour that is `gone`: packets ask for it
/// again.
fn of_neighbour(entry: &NeighbourMessage, gone: bool) -> Option<Change> {
    let mac = neighbour::mac(entry)?;
    if entry.header.family != AddressFamily::Bridge {
        if gone || entry.header.state == NeighbourState::Failed {
            return None;
        }
        return Some(Change::Neighbour(entry.header.ifindex, neighbour::destination(entry)?, mac));
    }
    let bridge = entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Controller(bridge) => Some(*bridge),
        _ => None,
    })?;
    let vlan = entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Vlan(vlan) => Some(*vlan),
        _ => None,
    });
    let port = (!gone).then_some(entry.header.ifindex);
    Some(Change::Place { bridge, mac, vlan: vlan.unwrap_or_default(), port })
}

fn of_route(route: &RouteMessage) -> Option<Change> {
    let everywhere = match route.header.address_family {
        AddressFamily::Inet => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    destination_of(route).or_else(|| IpNet::new(everywhere, 0).ok()).map(Change::Route)
}
