//! The kernel's entries as plain values, shared by what computes them ([`super::desired`]) and what reads and
//! writes them ([`super::kernel`]).

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::mac::Mac;

/// The next hop of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// `via 10.1.15.0 dev flannel.1 onlink`.
    Gateway(IpAddr),
    /// The nexthop object of this gateway: `nhid 167841536 via 10.1.15.0 dev flannel.1 onlink`.
    Nexthop(Ipv4Addr),
}

impl Via {
    /// Returns the gateway, named by the route itself or by its nexthop object.
    #[must_use]
    pub const fn gateway(self) -> IpAddr {
        match self {
            Self::Gateway(gateway) => gateway,
            Self::Nexthop(gateway) => IpAddr::V4(gateway),
        }
    }
}

/// The properties of an interface that can change after its creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Its name.
    pub name: String,
    /// Whether it is up.
    pub up: bool,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its Ethernet address; `None` if it has none.
    pub mac: Option<Mac>,
}

/// An entry that the kernel reports as new, changed or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// A new route to this subnet: interface and next hop if it looks like the floor's, else `None`.
    Route(IpNet, Option<(u32, Via)>),
    /// A removed route to this subnet that looked like the floor's.
    RouteGone(IpNet, (u32, Via)),
    /// Gateway whose number a nexthop object has or had, and the device behind which it leads there as the
    /// floor's do; `None` if it does not, or is gone.
    Nexthop(Ipv4Addr, Option<u32>),
    /// Interface, gateway and its permanent MAC; `None` if there is no permanent entry any more.
    Neighbour(u32, IpAddr, Option<Mac>),
    /// Interface, VTEP MAC and the node of its permanent FDB entry; `None` if there is none any more.
    Fdb(u32, Mac, Option<IpAddr>),
}

/// A look-up that failed in the kernel: it asks user space for the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Miss {
    /// Which VTEP MAC has this address?
    Neighbour(IpAddr),
    /// Which node has this VTEP MAC?
    Fdb(Mac),
}
