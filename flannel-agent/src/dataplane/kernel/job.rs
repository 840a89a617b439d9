//! Changes to kernel entries of the floor, and their netlink messages.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
};
use rtnetlink::packet_route::RouteNetlinkMessage;

use super::nexthop::Nexthop;
use super::{fdb, neighbour, nexthop, route};
use crate::dataplane::entry::Via;
use crate::mac::Mac;
use crate::netlink::message::Message;

/// An entry that a peer needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KernelEntry {
    /// A route through the vxlan device.
    Route { subnet: IpNet, via: Via },
    /// A route through the uplink, without a tunnel.
    Direct { subnet: IpNet, via: Via },
    /// The nexthop object of a gateway.
    Nexthop { gateway: Ipv4Addr, onlink: bool },
    /// The permanent MAC of a gateway.
    Neighbour { gateway: IpAddr, mac: Mac },
    /// A neighbour that the kernel asked for and may forget.
    Resolved { address: IpAddr, mac: Mac },
    /// The node that has a VTEP MAC.
    Fdb { mac: Mac, destination: IpAddr },
}

/// A change to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Job {
    Set(KernelEntry),
    Remove(KernelEntry),
}

impl KernelEntry {
    pub(super) fn route(&(subnet, via): &(IpNet, Via)) -> Self {
        Self::Route { subnet, via }
    }

    pub(super) fn nexthop(&(gateway, ()): &(Ipv4Addr, ())) -> Self {
        Self::Nexthop { gateway, onlink: true }
    }

    pub(super) const fn direct(subnet: IpNet, via: Via) -> Self {
        Self::Direct { subnet, via }
    }

    pub(super) const fn direct_nexthop(gateway: Ipv4Addr) -> Self {
        Self::Nexthop { gateway, onlink: false }
    }

    pub(super) fn neighbour(&(gateway, mac): &(IpAddr, Mac)) -> Self {
        Self::Neighbour { gateway, mac }
    }

    pub(super) fn fdb(&(mac, destination): &(Mac, IpAddr)) -> Self {
        Self::Fdb { mac, destination }
    }

    /// Returns the message that sets it.
    fn set(self, device: u32) -> Message {
        match self {
            Self::Route { subnet, via } => {
                RouteNetlinkMessage::NewRoute(route::message(device, subnet, via)).into()
            }
            Self::Nexthop { gateway, onlink } => {
                Message::NewNexthop(Nexthop { gateway, device, onlink }.message())
            }
            Self::Direct { subnet, via } => {
                RouteNetlinkMessage::NewRoute(route::direct_message(device, subnet, via)).into()
            }
            Self::Neighbour { gateway, mac } => {
                RouteNetlinkMessage::NewNeighbour(neighbour::message(device, gateway, mac)).into()
            }
            Self::Resolved { address, mac } => {
                RouteNetlinkMessage::NewNeighbour(neighbour::resolved(device, address, mac)).into()
            }
            Self::Fdb { mac, destination } => {
                RouteNetlinkMessage::NewNeighbour(fdb::message(device, mac, Some(destination))).into()
            }
        }
    }

    /// Returns the message that removes it. An FDB entry is named by its MAC alone, so that it is removed
    /// even if its destination was changed.
    fn remove(self, device: u32) -> Message {
        match self {
            Self::Route { subnet, via } => {
                RouteNetlinkMessage::DelRoute(route::message(device, subnet, via)).into()
            }
            Self::Nexthop { gateway, .. } => Message::DelNexthop(nexthop::name(gateway)),
            Self::Direct { subnet, via } => {
                RouteNetlinkMessage::DelRoute(route::direct_message(device, subnet, via)).into()
            }
            Self::Neighbour { gateway, mac } | Self::Resolved { address: gateway, mac } => {
                RouteNetlinkMessage::DelNeighbour(neighbour::message(device, gateway, mac)).into()
            }
            Self::Fdb { mac, .. } => {
                RouteNetlinkMessage::DelNeighbour(fdb::message(device, mac, None)).into()
            }
        }
    }
}

impl Job {
    /// Returns the request for this device. Setting replaces an existing entry, but not an existing nexthop
    /// object.
    pub(super) fn message(self, device: u32) -> NetlinkMessage<Message> {
        let (payload, verb) = match self {
            Self::Set(entry @ KernelEntry::Nexthop { .. }) => (entry.set(device), NLM_F_CREATE | NLM_F_EXCL),
            Self::Set(entry) => (entry.set(device), NLM_F_CREATE | NLM_F_REPLACE),
            Self::Remove(entry) => (entry.remove(device), 0),
        };
        let mut message = NetlinkMessage::from(payload);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | verb;
        message
    }

    /// Whether the errno means that there is nothing to remove. ENODEV: the device does not exist. EINVAL:
    /// the route's nexthop object does not exist (the kernel's net/ipv4/fib_frontend.c, `inet_rtm_delroute`).
    pub(super) const fn tolerates(self, errno: i32) -> bool {
        let Self::Remove(entry) = self else { return false };
        let by_object = matches!(
            entry,
            KernelEntry::Route { via: Via::Nexthop(_), .. }
                | KernelEntry::Direct { via: Via::Nexthop(_), .. }
        );
        matches!(errno, libc::ESRCH | libc::ENOENT | libc::ENODEV) || (by_object && errno == libc::EINVAL)
    }
}

impl fmt::Display for KernelEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route { subnet, via: Via::Gateway(gateway) } => write!(f, "route {subnet} via {gateway}"),
            Self::Route { subnet, via: Via::Nexthop(gateway) } => {
                write!(f, "route {subnet} by the nexthop object of {gateway}")
            }
            Self::Nexthop { gateway, .. } => {
                write!(f, "nexthop object {} of {gateway}", nexthop::id(*gateway))
            }
            Self::Direct { subnet, via } => write!(f, "direct route {subnet} via {}", via.gateway()),
            Self::Neighbour { gateway, mac } | Self::Resolved { address: gateway, mac } => {
                write!(f, "neighbour {gateway} at {mac}")
            }
            Self::Fdb { mac, destination } => write!(f, "FDB entry {mac} to {destination}"),
        }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set(entry) => write!(f, "setting {entry}"),
            Self::Remove(entry) => write!(f, "removing {entry}"),
        }
    }
}
