//! What kernel and maps should hold, computed from the peers alone. Pure: nothing here talks to anyone.

mod joined;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::entry::{Miss, Observed, Via};
use super::table::Table;
use crate::mac::Mac;
use crate::peer::Peer;
pub use joined::joined;

/// IPv4 routes through one device from which on they have nexthop objects: those of very large clusters, which would
/// take the kernel seconds otherwise. Fewer are written as flanneld writes them.
pub const NEXTHOPS_FROM: usize = 1000;

/// The way to each peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Pod subnet -> public IP, for the peers on the uplink's link: `10.1.15.0/24 via 192.168.64.3 dev eth0`.
    pub direct: BTreeMap<IpNet, IpAddr>,
    /// The others.
    pub tunnelled: Vec<Peer>,
}

impl Ways {
    /// The ways to these peers where nothing goes without a tunnel.
    #[must_use]
    pub fn tunnelled(peers: &[Peer]) -> Self {
        Self { tunnelled: peers.to_vec(), ..Self::default() }
    }

    /// The ways to these peers where those addresses are on the uplink's link.
    #[must_use]
    pub fn to(peers: &[Peer], on_link: &BTreeSet<IpAddr>) -> Self {
        let (near, tunnelled): (Vec<_>, Vec<_>) =
            peers.iter().cloned().partition(|peer| on_link.contains(&peer.public_ip));
        Self { direct: near.iter().map(|peer| (peer.subnet, peer.public_ip)).collect(), tunnelled }
    }
}

/// The kernel's entries for the overlay, as flanneld programs them: per peer one route, one permanent
/// neighbour and one FDB entry (`ip route`, `ip neigh`, `bridge fdb`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    /// Pod subnet -> gateway, `onlink` through the vxlan device. The gateway is the subnet's base address.
    pub routes: Table<IpNet, Via>,
    /// Gateways that have an object.
    pub nexthops: Table<Ipv4Addr, ()>,
    /// Gateway -> VTEP MAC, permanent.
    pub neighbours: Table<IpAddr, Mac>,
    /// VTEP MAC -> public IP of its node.
    pub fdb: Table<Mac, IpAddr>,
}

impl Floor {
    /// What the kernel should hold for these peers, given whether it has nexthop objects. Without a MAC a peer cannot be
    /// reached by vxlan.
    #[must_use]
    pub fn of<'a>(peers: impl IntoIterator<Item = &'a Peer>, nexthops: bool) -> Self {
        let peers: Vec<_> = peers.into_iter().filter(|peer| peer.vtep_mac.is_some()).collect();
        let over_ipv4 = peers.iter().filter(|peer| peer.public_ip.is_ipv4()).count();
        Self::written(peers, nexthops && over_ipv4 >= NEXTHOPS_FROM)
    }

    /// The entries of these peers, with IPv4 routes by nexthop objects or not.
    fn written<'a>(peers: impl IntoIterator<Item = &'a Peer>, by_objects: bool) -> Self {
        let peers: Vec<_> = peers.into_iter().filter_map(|peer| Some((peer, peer.vtep_mac?))).collect();
        let gateway = |peer: &Peer| peer.subnet.network();
        let via = |peer: &Peer| match gateway(peer) {
            IpAddr::V4(gateway) if by_objects => Via::Nexthop(gateway),
            gateway => Via::Gateway(gateway),
        };
        let object = |peer: &Peer| match via(peer) {
            Via::Nexthop(gateway) => Some((gateway, ())),
            Via::Gateway(_) => None,
        };
        Self {
            routes: peers.iter().map(|(peer, _)| (peer.subnet, via(peer))).collect(),
            nexthops: peers.iter().filter_map(|(peer, _)| object(peer)).collect(),
            neighbours: peers.iter().map(|(peer, mac)| (gateway(peer), *mac)).collect(),
            fdb: peers.iter().map(|(peer, mac)| (*mac, peer.public_ip)).collect(),
        }
    }

    /// Whether what the kernel announces is another state than this, on the device with this index.
    #[must_use]
    pub fn is_contradicted_by(&self, device: u32, entry: &Observed) -> bool {
        match entry {
            Observed::Route(subnet, way) => {
                self.routes.get(subnet).is_some_and(|via| *way != Some((device, *via)))
            }
            Observed::RouteGone(subnet, way) => {
                self.routes.get(subnet).is_some_and(|via| *way == (device, *via))
            }
            Observed::Neighbour(index, gateway, mac) => {
                *index == device && self.neighbours.get(gateway).is_some_and(|ours| *mac != Some(*ours))
            }
            Observed::Fdb(index, mac, node) => {
                *index == device && self.fdb.get(mac).is_some_and(|ours| *node != Some(*ours))
            }
        }
    }

    /// What the kernel asks for, if a peer has it.
    #[must_use]
    pub fn answer(&self, miss: &Miss) -> Option<Answer> {
        match miss {
            Miss::Fdb(mac) => self.fdb.get(mac).map(|node| Answer::Fdb(*mac, *node)),
            Miss::Neighbour(address) => {
                // Subnets do not overlap: the last one that begins before the address is the only one that can hold it.
                let (subnet, via) = self.routes.last_up_to(&IpNet::from(*address))?;
                let mac = self.neighbours.get(&via.gateway())?;
                subnet.contains(address).then_some(Answer::Neighbour(*address, *mac))
            }
        }
    }

    /// What to change to get from `self` to `desired`.
    #[must_use]
    pub fn changes_to(&self, desired: &Self) -> FloorChanges {
        FloorChanges {
            routes: Changes::between(&self.routes, &desired.routes),
            nexthops: Changes::between(&self.nexthops, &desired.nexthops),
            neighbours: Changes::between(&self.neighbours, &desired.neighbours),
            fdb: Changes::between(&self.fdb, &desired.fdb),
        }
    }
}

/// To a [`Miss`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The address is at this VTEP MAC.
    Neighbour(IpAddr, Mac),
    /// The VTEP MAC is at this node.
    Fdb(Mac, IpAddr),
}

/// The way from one [`Floor`] to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FloorChanges {
    /// Routes to set and remove.
    pub routes: Changes<IpNet, Via>,
    /// Nexthop objects to make and remove.
    pub nexthops: Changes<Ipv4Addr, ()>,
    /// Neighbours to set and remove.
    pub neighbours: Changes<IpAddr, Mac>,
    /// FDB entries to set and remove.
    pub fdb: Changes<Mac, IpAddr>,
}

impl FloorChanges {
    /// How many entries of each kind are to be set and removed.
    #[must_use]
    pub fn counts(&self) -> [(&'static str, usize, usize); 4] {
        let Self { routes, nexthops, neighbours, fdb } = self;
        [
            ("route", routes.set.len(), routes.remove.len()),
            ("nexthop", nexthops.set.len(), nexthops.remove.len()),
            ("neighbour", neighbours.set.len(), neighbours.remove.len()),
            ("fdb", fdb.set.len(), fdb.remove.len()),
        ]
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { routes, nexthops, neighbours, fdb } = self;
        routes.is_empty() && nexthops.is_empty() && neighbours.is_empty() && fdb.is_empty()
    }
}

/// The way from one table to another: what to write, and what to remove with the value it has now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes<K, V> {
    /// New or changed entries.
    pub set: Vec<(K, V)>,
    /// Stale entries.
    pub remove: Vec<(K, V)>,
}

impl<K: Ord + Clone, V: PartialEq + Clone> Changes<K, V> {
    /// What to change to get from `actual` to `desired`. Both in the order of their keys.
    #[must_use]
    pub fn between<'a>(
        actual: impl IntoIterator<Item = (&'a K, &'a V)>,
        desired: impl IntoIterator<Item = (&'a K, &'a V)>,
    ) -> Self
    where
        K: 'a,
        V: 'a,
    {
        let (mut set, mut remove) = (Vec::new(), Vec::new());
        let (mut there, mut wanted) = (actual.into_iter().peekable(), desired.into_iter().peekable());
        loop {
            // Both are sorted: the smaller key is the one that the other side does not have.
            let order = match (there.peek(), wanted.peek()) {
                (Some((is, _)), Some((should, _))) => is.cmp(should),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return Self { set, remove },
            };
            let owned = |(key, value): (&K, &V)| (key.clone(), value.clone());
            match order {
                Ordering::Less => remove.extend(there.next().map(owned)),
                Ordering::Greater => set.extend(wanted.next().map(owned)),
                Ordering::Equal => {
                    let (is, should) = (there.next(), wanted.next());
                    set.extend(should.filter(|_| is != should).map(owned));
                }
            }
        }
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }
}
