//! Events from the kernel: changed devices and entries, and questions for entries that it does not have.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::neighbour::NeighbourMessage;
use rtnetlink::packet_route::route::RouteFlags;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Kernel, fdb, neighbour, nexthop, route};
use crate::dataplane::entry::{LinkState, Miss, Observed};
use crate::netlink::address::ip_of;
use crate::netlink::link::Link;
use crate::netlink::message::Message;
use crate::netlink::notifications::Notifications;

/// The groups for everything that the floor consists of.
const GROUPS: [MulticastGroup; 7] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Nexthop,
];

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelEvent {
    /// Index and state of an interface; `None` if it was deleted.
    Link(u32, Option<LinkState>),
    /// Index of an interface, and an address that was removed from it.
    AddressGone(u32, IpAddr),
    /// A new, changed or removed entry.
    Entry(Observed),
    /// Index of an interface, and the question of a packet that waits there.
    Miss(u32, Miss),
    /// Events were lost.
    Lost,
}

/// A subscription to these events.
#[derive(Debug)]
pub struct KernelEvents(Notifications<Message>);

impl KernelEvents {
    /// Subscribes.
    pub(super) fn open(kernel: &Kernel) -> Result<Self> {
        kernel.changes_by_others(&GROUPS).map(Self).context("subscribing to changes of the kernel's entries")
    }

    /// Discards the events that have arrived. Used before everything is read again. The kernel repeats its
    /// questions.
    pub fn discard(&mut self) {
        self.0.discard();
    }

    /// Waits for the next event.
    pub async fn next(&mut self) -> KernelEvent {
        loop {
            if let Some(event) = read(&self.0.next().await) {
                return event;
            }
        }
    }
}

fn read(payload: &NetlinkPayload<Message>) -> Option<KernelEvent> {
    let object = |message: &[u8], gone| {
        let (gateway, device) = nexthop::reported(message, gone)?;
        Some(KernelEvent::Entry(Observed::Nexthop(gateway, device)))
    };
    match payload {
        NetlinkPayload::InnerMessage(Message::Route(message)) => read_route_message(message),
        NetlinkPayload::InnerMessage(Message::NewNexthop(message)) => object(message, false),
        NetlinkPayload::InnerMessage(Message::DelNexthop(message)) => object(message, true),
        NetlinkPayload::Overrun(_) => Some(KernelEvent::Lost),
        _ => None,
    }
}

fn read_route_message(message: &RouteNetlinkMessage) -> Option<KernelEvent> {
    match message {
        RouteNetlinkMessage::NewLink(link) => {
            let Link { index, name, up, mtu, mac, .. } = Link::read(link);
            Some(KernelEvent::Link(index, Some(LinkState { name, up, mtu, mac })))
        }
        RouteNetlinkMessage::DelLink(link) => Some(KernelEvent::Link(link.header.index, None)),
        RouteNetlinkMessage::DelAddress(address) => {
            Some(KernelEvent::AddressGone(address.header.index, ip_of(address)?))
        }
        RouteNetlinkMessage::NewRoute(message) => {
            let (subnet, hop) = route::reported(message, RouteFlags::Onlink)?;
            Some(KernelEvent::Entry(Observed::Route(subnet, hop)))
        }
        RouteNetlinkMessage::DelRoute(message) => {
            let (subnet, hop) = route::reported(message, RouteFlags::Onlink)?;
            Some(KernelEvent::Entry(Observed::RouteGone(subnet, hop?)))
        }
        RouteNetlinkMessage::NewNeighbour(entry) => reported(entry, false).map(KernelEvent::Entry),
        RouteNetlinkMessage::DelNeighbour(entry) => reported(entry, true).map(KernelEvent::Entry),
        RouteNetlinkMessage::GetNeighbour(entry) => {
            Some(KernelEvent::Miss(entry.header.ifindex, question(entry)?))
        }
        _ => None,
    }
}

/// Reads a neighbour or an FDB entry.
fn reported(entry: &NeighbourMessage, gone: bool) -> Option<Observed> {
    let device = entry.header.ifindex;
    if entry.header.family == AddressFamily::Bridge {
        let now = fdb::read(entry, device).map(|(_, destination)| destination);
        return Some(Observed::Fdb(device, neighbour::mac(entry)?, now.filter(|_| !gone)));
    }
    let now = neighbour::read(entry, device).map(|(_, mac)| mac);
    Some(Observed::Neighbour(device, neighbour::destination(entry)?, now.filter(|_| !gone)))
}

/// Reads a question. A question for a MAC has the address (net/core/neighbour.c: `neigh_app_ns`), and a
/// question for a node has the MAC (drivers/net/vxlan: `vxlan_fdb_miss`).
fn question(entry: &NeighbourMessage) -> Option<Miss> {
    match neighbour::destination(entry) {
        Some(address) if entry.header.family != AddressFamily::Bridge => Some(Miss::Neighbour(address)),
        _ => neighbour::mac(entry).map(Miss::Fdb),
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourState};

    use super::*;
    use crate::dataplane::entry::Via;
    use crate::mac::Mac;

    const DEVICE: u32 = 7;

    fn event(message: RouteNetlinkMessage) -> Option<KernelEvent> {
        read(&NetlinkPayload::InnerMessage(Message::Route(message)))
    }

    #[test]
    fn neighbours_and_fdb_entries_are_distinguished() {
        let (gateway, mac) = ("10.1.15.0".parse().unwrap(), "c6:d2:32:6f:8f:44".parse().unwrap());
        let node = "192.168.64.3".parse().unwrap();
        let neighbour = neighbour::message(DEVICE, gateway, mac);
        let mut learned = neighbour.clone();
        learned.header.state = NeighbourState::Stale;
        let fdb = fdb::message(DEVICE, mac, Some(node));
        for (message, entry) in [
            (
                RouteNetlinkMessage::NewNeighbour(neighbour.clone()),
                Observed::Neighbour(DEVICE, gateway, Some(mac)),
            ),
            (RouteNetlinkMessage::NewNeighbour(learned), Observed::Neighbour(DEVICE, gateway, None)),
            (RouteNetlinkMessage::DelNeighbour(neighbour), Observed::Neighbour(DEVICE, gateway, None)),
            (RouteNetlinkMessage::NewNeighbour(fdb.clone()), Observed::Fdb(DEVICE, mac, Some(node))),
            (RouteNetlinkMessage::DelNeighbour(fdb), Observed::Fdb(DEVICE, mac, None)),
        ] {
            assert_eq!(event(message), Some(KernelEvent::Entry(entry)));
        }
    }

    #[test]
    fn questions_for_neighbours_and_fdb_entries_are_distinguished() {
        let (gateway, mac): (IpAddr, Mac) =
            ("10.1.15.0".parse().unwrap(), "c6:d2:32:6f:8f:44".parse().unwrap());
        let mut l3 = neighbour::message(DEVICE, gateway, mac);
        l3.attributes.retain(|attribute| matches!(attribute, NeighbourAttribute::Destination(_)));
        // The kernel sends AF_BRIDGE and the MAC alone.
        let l2 = fdb::message(DEVICE, mac, None);
        for (message, miss) in [(l3, Miss::Neighbour(gateway)), (l2, Miss::Fdb(mac))] {
            let message = RouteNetlinkMessage::GetNeighbour(message);
            assert_eq!(event(message), Some(KernelEvent::Miss(DEVICE, miss)));
        }
    }

    #[test]
    fn a_route_of_another_kind_is_reported_without_a_next_hop() {
        let (subnet, via) = ("10.1.15.0/24".parse().unwrap(), Via::Gateway("10.1.15.0".parse().unwrap()));
        let flannels = route::message(DEVICE, subnet, via);
        let mut other = flannels.clone();
        other.header.flags = Default::default();
        for (message, entry) in [
            (
                RouteNetlinkMessage::NewRoute(flannels.clone()),
                Some(Observed::Route(subnet, Some((DEVICE, via)))),
            ),
            (RouteNetlinkMessage::DelRoute(flannels), Some(Observed::RouteGone(subnet, (DEVICE, via)))),
            (RouteNetlinkMessage::NewRoute(other.clone()), Some(Observed::Route(subnet, None))),
            (RouteNetlinkMessage::DelRoute(other), None),
        ] {
            assert_eq!(event(message), entry.map(KernelEvent::Entry));
        }
    }
}
