//! The entries that the kernel should hold, computed from the peers, and the difference to those that it
//! holds. Pure.

mod added;
mod shared;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

pub use self::added::added_peers;
use super::entry::{Miss, Observed, Via};
use super::table::Table;
use crate::mac::Mac;
use crate::peer::Peer;

/// Number of IPv4 routes through one device from which on they use nexthop objects. The kernel needs seconds
/// to add very many routes without them. Fewer routes are written as flanneld writes them.
pub const NEXTHOPS_FROM: usize = 1000;

/// How each peer is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Pod subnet -> public IP of the peers on the uplink's link: `10.1.15.0/24 via 192.168.64.3 dev eth0`.
    pub direct: BTreeMap<IpNet, IpAddr>,
    /// The peers that are reached through the tunnel.
    pub tunnelled: Vec<Peer>,
}

impl Ways {
    /// Reaches all peers through the tunnel.
    #[must_use]
    pub fn tunnelled(peers: &[Peer]) -> Self {
        Self { tunnelled: peers.to_vec(), ..Self::default() }
    }

    /// Reaches the peers with these addresses on the uplink's link directly, the others through the tunnel.
    #[must_use]
    pub fn to(peers: &[Peer], on_link: &BTreeSet<IpAddr>) -> Self {
        let (direct, tunnelled): (Vec<_>, Vec<_>) =
            peers.iter().cloned().partition(|peer| on_link.contains(&peer.public_ip));
        Self { direct: direct.iter().map(|peer| (peer.subnet, peer.public_ip)).collect(), tunnelled }
    }
}

/// The kernel's entries for the overlay, as flanneld makes them. Each peer has one route, one permanent
/// neighbour and one FDB entry (`ip route`, `ip neigh`, `bridge fdb`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    /// Pod subnet -> gateway, `onlink` through the vxlan device. The gateway is the subnet's base address.
    pub routes: Table<IpNet, Via>,
    /// Gateways that have a nexthop object.
    pub nexthops: Table<Ipv4Addr, ()>,
    /// Gateway -> VTEP MAC, permanent.
    pub neighbours: Table<IpAddr, Mac>,
    /// VTEP MAC -> public IP of its node.
    pub fdb: Table<Mac, IpAddr>,
}

impl Floor {
    /// Returns the entries for these peers. `nexthops`: whether the kernel has nexthop objects. A peer
    /// without a MAC cannot be reached by vxlan and has no entries.
    #[must_use]
    pub fn of<'a>(peers: impl IntoIterator<Item = &'a Peer>, nexthops: bool) -> Self {
        let peers: Vec<_> = peers.into_iter().filter(|peer| peer.vtep_mac.is_some()).collect();
        let over_ipv4 = peers.iter().filter(|peer| peer.public_ip.is_ipv4()).count();
        Self::with_next_hops(peers, nexthops && over_ipv4 >= NEXTHOPS_FROM)
    }

    /// Returns the entries for these peers, whose IPv4 routes use nexthop objects or not.
    fn with_next_hops<'a>(peers: impl IntoIterator<Item = &'a Peer>, by_objects: bool) -> Self {
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

    /// Whether a reported entry of the device with this index differs from these entries.
    #[must_use]
    pub fn is_contradicted_by(&self, device: u32, entry: &Observed) -> bool {
        match entry {
            Observed::Route(subnet, hop) => {
                self.routes.get(subnet).is_some_and(|via| *hop != Some((device, *via)))
            }
            Observed::RouteGone(subnet, hop) => {
                self.routes.get(subnet).is_some_and(|via| *hop == (device, *via))
            }
            // Its routes are gone with it, without a report of their own.
            Observed::Nexthop(gateway, through) => {
                self.nexthops.contains_key(gateway) && *through != Some(device)
            }
            Observed::Neighbour(index, gateway, mac) => {
                *index == device && self.neighbours.get(gateway).is_some_and(|desired| *mac != Some(*desired))
            }
            Observed::Fdb(index, mac, node) => {
                *index == device && self.fdb.get(mac).is_some_and(|desired| *node != Some(*desired))
            }
        }
    }

    /// Answers a question of the kernel, if a peer has the address or MAC.
    #[must_use]
    pub fn answer(&self, miss: &Miss) -> Option<Answer> {
        match miss {
            Miss::Fdb(mac) => self.fdb.get(mac).map(|node| Answer::Fdb(*mac, *node)),
            Miss::Neighbour(address) => {
                // Subnets do not overlap: only the last one that begins before the address can contain it.
                let (subnet, via) = self.routes.last_up_to(&IpNet::from(*address))?;
                let mac = self.neighbours.get(&via.gateway())?;
                subnet.contains(address).then_some(Answer::Neighbour(*address, *mac))
            }
        }
    }

    /// Returns the changes that lead from `self` to `desired`.
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

/// The answer to a [`Miss`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The address has this VTEP MAC.
    Neighbour(IpAddr, Mac),
    /// The node with this address has the VTEP MAC.
    Fdb(Mac, IpAddr),
}

/// The difference between two [`Floor`]s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FloorChanges {
    /// Routes to set and remove.
    pub routes: Changes<IpNet, Via>,
    /// Nexthop objects to set and remove.
    pub nexthops: Changes<Ipv4Addr, ()>,
    /// Neighbours to set and remove.
    pub neighbours: Changes<IpAddr, Mac>,
    /// FDB entries to set and remove.
    pub fdb: Changes<Mac, IpAddr>,
}

impl FloorChanges {
    /// Returns the number of entries to set and to remove, by kind.
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

    /// Whether there is nothing to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { routes, nexthops, neighbours, fdb } = self;
        routes.is_empty() && nexthops.is_empty() && neighbours.is_empty() && fdb.is_empty()
    }
}

/// The difference between two tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes<K, V> {
    /// New or changed entries.
    pub set: Vec<(K, V)>,
    /// Stale entries, with their present values.
    pub remove: Vec<(K, V)>,
}

impl<K: Ord + Clone, V: PartialEq + Clone> Changes<K, V> {
    /// Returns the number of entries to set and to remove.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.set.len() + self.remove.len()
    }

    /// Returns the changes that lead from `actual` to `desired`, both in the order of their keys.
    ///
    /// ```
    /// use flannel_agent::dataplane::{desired::Changes, table::Table};
    ///
    /// let actual = Table::from([(1, 'a'), (2, 'b')]);
    /// let desired = Table::from([(2, 'c'), (3, 'd')]);
    /// let changes = Changes::between(&actual, &desired);
    /// assert_eq!(changes.set, [(2, 'c'), (3, 'd')]);
    /// assert_eq!(changes.remove, [(1, 'a')]);
    /// ```
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
        let (mut actual, mut desired) = (actual.into_iter().peekable(), desired.into_iter().peekable());
        loop {
            // Both are sorted: the smaller key is missing on the other side.
            let order = match (actual.peek(), desired.peek()) {
                (Some((is, _)), Some((should, _))) => is.cmp(should),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return Self { set, remove },
            };
            let owned = |(key, value): (&K, &V)| (key.clone(), value.clone());
            match order {
                Ordering::Less => remove.extend(actual.next().map(owned)),
                Ordering::Greater => set.extend(desired.next().map(owned)),
                Ordering::Equal => {
                    let (is, should) = (actual.next(), desired.next());
                    set.extend(should.filter(|_| is != should).map(owned));
                }
            }
        }
    }

    /// Whether there is nothing to change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }
}
