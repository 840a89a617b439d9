//! What kernel and maps should hold, computed from the peers alone. Pure: nothing here talks to anyone.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::mac::Mac;

/// Another node, as one address family sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its pod subnet.
    pub subnet: IpNet,
    /// Its address on the underlay.
    pub public_ip: IpAddr,
    /// MAC of its vxlan device.
    pub vtep_mac: Mac,
}

/// The kernel's entries for the overlay, as flanneld programs them: per peer one route, one permanent
/// neighbour and one FDB entry (`ip route`, `ip neigh`, `bridge fdb`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Floor {
    /// Pod subnet -> gateway, `onlink` through the vxlan device. The gateway is the subnet's base address.
    pub routes: BTreeMap<IpNet, IpAddr>,
    /// Gateway -> VTEP MAC, permanent.
    pub neighbours: BTreeMap<IpAddr, Mac>,
    /// VTEP MAC -> public IP of its node.
    pub fdb: BTreeMap<Mac, IpAddr>,
}

impl Floor {
    /// What the kernel should hold for these peers.
    #[must_use]
    pub fn of(peers: &[Peer]) -> Self {
        let mut floor = Self::default();
        for peer in peers {
            let gateway = peer.subnet.network();
            floor.routes.insert(peer.subnet, gateway);
            floor.neighbours.insert(gateway, peer.vtep_mac);
            floor.fdb.insert(peer.vtep_mac, peer.public_ip);
        }
        floor
    }

    /// What to change to get from `self` to `desired`.
    #[must_use]
    pub fn changes_to(&self, desired: &Self) -> FloorChanges {
        FloorChanges {
            routes: Changes::between(&self.routes, &desired.routes),
            neighbours: Changes::between(&self.neighbours, &desired.neighbours),
            fdb: Changes::between(&self.fdb, &desired.fdb),
        }
    }
}

/// The way from one [`Floor`] to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FloorChanges {
    /// Routes to set and remove.
    pub routes: Changes<IpNet, IpAddr>,
    /// Neighbours to set and remove.
    pub neighbours: Changes<IpAddr, Mac>,
    /// FDB entries to set and remove.
    pub fdb: Changes<Mac, IpAddr>,
}

impl FloorChanges {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.neighbours.is_empty() && self.fdb.is_empty()
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
    /// What to change to get from `actual` to `desired`.
    #[must_use]
    pub fn between(actual: &BTreeMap<K, V>, desired: &BTreeMap<K, V>) -> Self {
        let set = desired.iter().filter(|(key, value)| actual.get(key) != Some(value));
        let remove = actual.iter().filter(|(key, _)| !desired.contains_key(key));
        let owned = |(key, value): (&K, &V)| (key.clone(), value.clone());
        Self { set: set.map(owned).collect(), remove: remove.map(owned).collect() }
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }
}
