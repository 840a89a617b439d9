//! `LEASES` and `LEASES6`: the node that each pod address belongs to. `SUBNETS` and `SUBNETS6`: their exact-match index.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, MapData};
use flannel_common::address::{V4, V6};
use flannel_common::lease::{DIRECT, ENDED, Lease, NETWORK, NODE, OWN};
use flannel_common::node::{NodeConfig, OverlayEnd};
use ipnet::IpNet;

use super::family::MapFamily;
use super::lease_map::{LeaseMap, Table};
use super::prefix::Prefix;
use super::take;
use crate::dataplane::desired::Changes;
use crate::mac::Mac;
use crate::peer::Peer;

/// The maps of leases of both address families.
pub struct LeaseMaps {
    v4: Leases<V4>,
    v6: Leases<V6>,
}

impl LeaseMaps {
    /// Opens the maps, with what an earlier agent left in them.
    pub(super) fn open(ebpf: &mut Ebpf, node: &NodeConfig) -> Result<Self> {
        Ok(Self { v4: Leases::open(ebpf, node)?, v6: Leases::open(ebpf, node)? })
    }

    /// Adds the node's own subnet, with the next [`Self::apply`]. `leasable`: the prefixes that nodes lease subnets from.
    pub fn set_own(&mut self, subnet: IpNet, leasable: &[IpNet]) {
        self.v4.set_own(subnet, leasable);
        self.v6.set_own(subnet, leasable);
    }

    /// Makes the maps hold exactly these peers and the node itself. Returns whether a lease that was there has changed or is gone.
    ///
    /// # Errors
    /// A map cannot be written. What was written stays, and the floor carries the rest.
    pub fn apply(&mut self, peers: &[Peer], routes: Routes<'_>) -> Result<bool> {
        Ok(self.v4.apply(peers, routes)? | self.v6.apply(peers, routes)?)
    }

    /// Adds these peers, none of which is routed without a tunnel. Returns false if that is not possible, and all peers
    /// are to be applied.
    ///
    /// # Errors
    /// As of [`Self::apply`].
    pub fn add_peers(&mut self, joined: &[Peer]) -> Result<bool> {
        Ok(self.v4.add_peers(joined)? && self.v6.add_peers(joined)?)
    }
}

/// What routes say of peers.
#[derive(Clone, Copy, Debug)]
pub struct Routes<'a> {
    /// The subnets that are routed without a tunnel.
    pub direct: &'a BTreeMap<IpNet, IpAddr>,
    /// The MTUs in bytes that routes to public addresses have of their own.
    pub mtus: &'a BTreeMap<IpAddr, u32>,
}

impl Routes<'_> {
    /// Nothing.
    pub const NONE: Self = Self { direct: const { &BTreeMap::new() }, mtus: const { &BTreeMap::new() } };
}

/// The maps of one address family.
struct Leases<A: MapFamily> {
    leases: LeaseMap<LpmTrie<MapData, A, Lease<A>>, A>,
    /// Exact-match index over `leases`, tried before the trie: its cost does not grow with the number of leases.
    subnets: LeaseMap<HashMap<MapData, Key<A>, Lease<A>>, A>,
    /// The node's end of the overlay.
    ours: OverlayEnd<A>,
    /// The entries of the node itself.
    own: Table<A>,
    ended: Ended<A>,
}

/// Leases that have ended, each with the time until which it stays in the map.
type Ended<A> = BTreeMap<Prefix<A>, (Lease<A>, Instant)>;

/// How long a lease that has ended stays in the map. A lost lease is often taken again at once, and what its node sends
/// meanwhile is not forged.
const REMEMBERED: Duration = Duration::from_secs(30);

impl<A: MapFamily> Leases<A> {
    fn open(ebpf: &mut Ebpf, node: &NodeConfig) -> Result<Self> {
        let leases = LeaseMap::open(A::LEASES, take(ebpf, A::LEASES)?)?;
        let subnets = LeaseMap::open(A::SUBNETS, take(ebpf, A::SUBNETS)?)?;
        let ours = *A::ours(node);
        Ok(Self { leases, subnets, ours, own: Table::default(), ended: BTreeMap::new() })
    }

    /// Sets the node's own subnet, if it is of this family.
    fn set_own(&mut self, subnet: IpNet, leasable: &[IpNet]) {
        let OverlayEnd { local_ip, vtep_mac, .. } = self.ours;
        let Some(subnet) = Prefix::of(subnet) else { return };
        let own = Lease { public_ip: local_ip, vtep_mac, flags: OWN, route_mtu: 0 };
        let node = Lease { flags: OWN | NODE, ..own };
        let no_node = Lease { public_ip: A::default(), vtep_mac: [0; 6], flags: NETWORK, route_mtu: 0 };
        let leasable = leasable.iter().filter_map(|prefix| Some((Prefix::of(*prefix)?, no_node)));
        // A range of one subnet has one entry for both: the later one stays.
        self.own = leasable.chain([(subnet, own), (Prefix::host(local_ip), node)]).collect();
    }

    fn apply(&mut self, peers: &[Peer], routes: Routes<'_>) -> Result<bool> {
        let wanted = leases_of(peers, routes, &self.own);
        remember(&mut self.ended, self.leases.content(), &wanted, Instant::now());
        let ended = self.ended.iter().map(|(subnet, (lease, _))| (*subnet, *lease));
        let desired = if self.ended.is_empty() { wanted } else { wanted.into_iter().chain(ended).collect() };
        let replaces = self.leases.set(desired)?;
        self.update_index()?;
        Ok(replaces)
    }

    /// Returns false, with nothing done, if that is not possible.
    fn add_peers(&mut self, joined: &[Peer]) -> Result<bool> {
        let more = leases_of(joined, Routes::NONE, &Table::default());
        if !is_addition(self.leases.content(), &self.ended, &more, Instant::now()) {
            return Ok(false);
        }
        self.leases.add(more)?;
        self.update_index().map(|()| true)
    }

    /// Follows `leases`, in which programs look up what they do not find here.
    fn update_index(&mut self) -> Result<()> {
        self.subnets.set(undivided(self.leases.content(), self.ours.subnet_len)).map(drop)
    }
}

/// Returns the subnets of this length that contain no other prefix. Their first bits decide where an address belongs.
fn undivided<A: MapFamily>(leases: &Table<A>, length: u8) -> Table<A> {
    let next = leases.iter().skip(1).map(|(next, _)| Some(next)).chain([None]);
    let undivided = leases.iter().zip(next).filter(|((subnet, _), next)| {
        // The first prefix in it would be the next one in order.
        subnet.length() == length && next.is_none_or(|next| !subnet.contains(next))
    });
    undivided.map(|((subnet, lease), _)| (*subnet, *lease)).collect()
}

/// Returns whether these entries can be added with the same result as that of [`Leases::apply`]: none is there already, not even
/// as one that has ended, and nothing is to be removed.
fn is_addition<A: MapFamily>(current: &Table<A>, ended: &Ended<A>, more: &Table<A>, now: Instant) -> bool {
    ended.values().all(|(_, until)| *until > now) && current.is_disjoint(more)
}

/// Adds the peers' leases that are not wanted any more. Removes those that are wanted again, or whose time is over.
fn remember<A: MapFamily>(ended: &mut Ended<A>, current: &Table<A>, wanted: &Table<A>, now: Instant) {
    ended.retain(|subnet, (_, until)| *until > now && !wanted.contains_key(subnet));
    let gone = Changes::between(current, wanted).remove.into_iter();
    let peers = gone.filter(|(_, lease)| lease.flags & (OWN | ENDED | NETWORK) == 0);
    ended.extend(
        peers.map(|(subnet, lease)| {
            (subnet, (Lease { flags: lease.flags | ENDED, ..lease }, now + REMEMBERED))
        }),
    );
}

/// Returns the entries of the peers whose subnet and public address are of this family, one for each subnet and one for
/// each address, and those of the node itself.
fn leases_of<A: MapFamily>(peers: &[Peer], routes: Routes<'_>, own: &Table<A>) -> Table<A> {
    let lease = |peer: &Peer| {
        let flags = if routes.direct.contains_key(&peer.subnet) { DIRECT } else { 0 };
        let route_mtu = routes.mtus.get(&peer.public_ip).copied().unwrap_or_default();
        // Without a tunnel no device with a MAC is needed.
        let vtep_mac = peer.vtep_mac.or((flags == DIRECT).then(Mac::default))?.0;
        let lease = Lease { public_ip: A::of(peer.public_ip)?, vtep_mac, flags, route_mtu };
        Some((Prefix::of(peer.subnet)?, lease))
    };
    let leases = peers.iter().filter_map(lease);
    let node = |(_, lease): (_, Lease<A>)| (Prefix::host(lease.public_ip), Lease { flags: NODE, ..lease });
    let nodes = leases.clone().map(node);
    let own = own.iter().map(|(subnet, lease)| (*subnet, *lease));
    leases.clone().chain(nodes).chain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix<A: MapFamily>(subnet: &str) -> Prefix<A> {
        Prefix::of(subnet.parse().unwrap()).unwrap()
    }

    #[test]
    fn each_family_has_its_own_peers() {
        let peer = |subnet: &str, public_ip: &str| Peer {
            subnet: subnet.parse().unwrap(),
            public_ip: public_ip.parse().unwrap(),
            vtep_mac: Some(Mac([2; 6])),
        };
        let peers = [
            peer("10.1.15.0/24", "192.168.64.2"),
            peer("fd44:0:0:15::/64", "fd00::2"),
            peer("fd44:0:0:16::/64", "fd00::3"),
        ];
        let direct = BTreeMap::from([(peers[2].subnet, peers[2].public_ip)]);
        let mtus = BTreeMap::from([(peers[0].public_ip, 1400)]);
        let routes = Routes { direct: &direct, mtus: &mtus };
        let shown = |(subnet, lease): (&Prefix<V6>, &Lease<V6>)| {
            format!("{subnet} {} {}", lease.public_ip.ip(), lease.flags)
        };
        assert_eq!(
            leases_of::<V6>(&peers, routes, &Table::default()).iter().map(shown).collect::<Vec<_>>(),
            [
                "fd00::2/128 fd00::2 2",
                "fd00::3/128 fd00::3 2",
                "fd44:0:0:15::/64 fd00::2 0",
                "fd44:0:0:16::/64 fd00::3 8"
            ]
        );
        let v4 = leases_of::<V4>(&peers, routes, &Table::default());
        assert_eq!(
            v4.iter().map(|(subnet, lease)| format!("{subnet} {}", lease.route_mtu)).collect::<Vec<_>>(),
            ["10.1.15.0/24 1400", "192.168.64.2/32 1400"]
        );
    }

    const LEASE: Lease<V4> = Lease { public_ip: [192, 168, 64, 2], vtep_mac: [2; 6], flags: 0, route_mtu: 0 };

    #[test]
    fn a_lease_that_has_ended_stays_for_a_while() {
        let (subnet, start) = (prefix("10.1.15.0/24"), Instant::now());
        let (with, without) = (Table::from([(subnet, LEASE)]), Table::default());
        let mut ended = BTreeMap::new();
        remember(&mut ended, &with, &without, start);
        assert_eq!(ended[&subnet].0, Lease { flags: ENDED, ..LEASE });
        // A second look does not prolong its time.
        let current = Table::from([(subnet, ended[&subnet].0)]);
        remember(&mut ended, &current, &without, start + REMEMBERED / 2);
        assert_eq!(ended[&subnet].1, start + REMEMBERED);
        let mut back = ended.clone();
        remember(&mut back, &current, &with, start + REMEMBERED / 2);
        assert!(back.is_empty());
        remember(&mut ended, &current, &without, start + REMEMBERED);
        assert!(ended.is_empty());
    }

    #[test]
    fn leases_are_added_to_those_that_have_ended_until_these_are_removed() {
        let (gone, new, start) = (prefix("10.1.15.0/24"), prefix("10.1.16.0/24"), Instant::now());
        let current = Table::from([(gone, Lease { flags: ENDED, ..LEASE })]);
        let ended = BTreeMap::from([(gone, (LEASE, start + REMEMBERED))]);
        let is_addition = |subnet, now| is_addition(&current, &ended, &Table::from([(subnet, LEASE)]), now);
        assert!(is_addition(new, start));
        assert!(!is_addition(gone, start), "it is back, and flows to it are to be proven again");
        assert!(!is_addition(new, start + REMEMBERED));
    }

    #[test]
    fn the_index_has_the_subnets_that_are_not_divided() {
        let leases = [
            "10.1.0.0/16",
            "10.1.14.0/24",
            "10.1.15.0/24",
            "10.1.15.0/25",
            "10.1.16.0/24",
            "10.1.16.7/32",
            "10.1.17.0/24",
            "10.1.18.0/25",
            "10.1.18.128/25",
            "10.1.19.0/24",
        ];
        let leases: Table<V4> = leases.into_iter().map(|subnet| (prefix(subnet), LEASE)).collect();
        let shown: Vec<_> = undivided(&leases, 24).iter().map(|(subnet, _)| subnet.to_string()).collect();
        assert_eq!(shown, ["10.1.14.0/24", "10.1.17.0/24", "10.1.19.0/24"]);
    }

    #[test]
    fn the_own_lease_does_not_stay() {
        let own = Table::from([(prefix("10.1.15.0/24"), Lease { flags: OWN, ..LEASE })]);
        let mut ended = BTreeMap::new();
        remember(&mut ended, &own, &Table::default(), Instant::now());
        assert!(ended.is_empty());
    }
}
