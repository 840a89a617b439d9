//! `LEASES` and `LEASES6`: which node a pod address belongs to. `SUBNETS` and `SUBNETS6`: the same at one look.

mod written;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, MapData};
use flannel_common::lease::{DIRECT, ENDED, Lease, NETWORK, NODE, OWN};
use ipnet::IpNet;

use super::family::Family;
use super::take;
use crate::dataplane::desired::Changes;
use crate::dataplane::table;
use crate::peer::Peer;
use written::Written;

/// A prefix of one family: network address and length in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Prefix<A> {
    network: A,
    length: u8,
}

impl<A: Family> Prefix<A> {
    /// The prefix as maps have it, if it is of this family.
    pub(super) fn of(subnet: IpNet) -> Option<Self> {
        Some(Self { network: A::of(subnet.network())?, length: subnet.prefix_len() })
    }

    /// One address.
    const fn host(address: A) -> Self {
        Self { network: address, length: A::BITS as u8 }
    }

    /// Whether the other one, which is not the same, is within.
    fn holds(&self, other: &Self) -> bool {
        let bits = |prefix: &Self| IpNet::new(prefix.network.ip(), self.length).map(|net| net.network());
        self.length < other.length && bits(self) == bits(other)
    }

    fn key(&self) -> Key<A> {
        Key::new(self.length.into(), self.network)
    }
}

impl<A: Family> fmt::Display for Prefix<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network.ip(), self.length)
    }
}

/// The maps of one family, and what they hold.
pub(super) struct Leases<A: Family> {
    all: Written<LpmTrie<MapData, A, Lease<A>>, A>,
    /// What one look is enough for, however many leases there are.
    subnets: Written<HashMap<MapData, Key<A>, Lease<A>>, A>,
    /// Prefix length of the nodes' subnets.
    subnet_len: u8,
    own: Table<A>,
    ended: Ended<A>,
}

type Table<A> = table::Table<Prefix<A>, Lease<A>>;
/// Leases of the recent past, and until when they are remembered.
type Ended<A> = BTreeMap<Prefix<A>, (Lease<A>, Instant)>;

/// A lease that is lost is often taken again at once; what its node sends meanwhile is not forged.
const REMEMBERED: Duration = Duration::from_secs(30);

impl<A: Family> Leases<A> {
    /// Takes over the maps with what an earlier agent left in them.
    pub(super) fn open(ebpf: &mut Ebpf, subnet_len: u8) -> Result<Self> {
        let all = Written::open(A::LEASES, take(ebpf, A::LEASES)?)?;
        let subnets = Written::open(A::SUBNETS, take(ebpf, A::SUBNETS)?)?;
        Ok(Self { all, subnets, subnet_len, own: Table::default(), ended: BTreeMap::new() })
    }

    /// From now on the maps hold this, the node's own lease and the network, beside the leases of the peers.
    pub(super) fn set_own(&mut self, subnet: Prefix<A>, network: Prefix<A>, public_ip: A, vtep_mac: [u8; 6]) {
        let own = Lease { public_ip, vtep_mac, flags: OWN };
        let node = Lease { flags: OWN | NODE, ..own };
        let nobodys = Lease { public_ip: A::default(), vtep_mac: [0; 6], flags: NETWORK };
        self.own = Table::from([(network, nobodys), (subnet, own), (Prefix::host(public_ip), node)]);
    }

    /// Makes the maps hold exactly these peers and ourselves.
    pub(super) fn apply(&mut self, peers: &[Peer], direct: &BTreeMap<IpNet, IpAddr>) -> Result<()> {
        let now = Instant::now();
        let wanted = leases_of(peers, direct, &self.own);
        remember(&mut self.ended, self.all.content(), &wanted, now);
        let ended = self.ended.iter().map(|(subnet, (lease, _))| (*subnet, *lease));
        let desired = if self.ended.is_empty() { wanted } else { wanted.into_iter().chain(ended).collect() };
        self.all.become_like(desired)?;
        self.follow()
    }

    /// Adds these peers; false, with nothing done, if it is not done with adding.
    pub(super) fn add_peers(&mut self, joined: &[Peer]) -> Result<bool> {
        let more = leases_of(joined, &BTreeMap::new(), &Table::default());
        if !self.ended.is_empty() || !self.all.content().is_apart_from(&more) {
            return Ok(false);
        }
        self.all.add(more)?;
        self.follow().map(|()| true)
    }

    /// Behind the map of all leases, which is asked where this one has none.
    fn follow(&mut self) -> Result<()> {
        self.subnets.become_like(undivided(self.all.content(), self.subnet_len))
    }
}

/// The subnets of this length that no longer prefix is in: whatever has their first bits is theirs.
fn undivided<A: Family>(leases: &Table<A>, length: u8) -> Table<A> {
    let next = leases.iter().skip(1).map(|(next, _)| Some(next)).chain([None]);
    let undivided = leases.iter().zip(next).filter(|((subnet, _), next)| {
        // The first prefix in it would be the next one in order.
        subnet.length == length && next.is_none_or(|next| !subnet.holds(next))
    });
    undivided.map(|((subnet, lease), _)| (*subnet, *lease)).collect()
}

/// Takes up the peers' leases that are not wanted any more, and lets go of those that are again, or have been
/// remembered long enough.
fn remember<A: Family>(ended: &mut Ended<A>, current: &Table<A>, wanted: &Table<A>, now: Instant) {
    ended.retain(|subnet, (_, until)| *until > now && !wanted.contains_key(subnet));
    let gone = Changes::between(current, wanted).remove.into_iter();
    let peers = gone.filter(|(_, lease)| lease.flags & (OWN | ENDED | NETWORK) == 0);
    ended.extend(
        peers.map(|(subnet, lease)| {
            (subnet, (Lease { flags: lease.flags | ENDED, ..lease }, now + REMEMBERED))
        }),
    );
}

/// The peers as the map has them: subnets and public addresses of its family, and these addresses. And ourselves.
fn leases_of<A: Family>(peers: &[Peer], direct: &BTreeMap<IpNet, IpAddr>, own: &Table<A>) -> Table<A> {
    let lease = |peer: &Peer| {
        let flags = if direct.contains_key(&peer.subnet) { DIRECT } else { 0 };
        let lease = Lease { public_ip: A::of(peer.public_ip)?, vtep_mac: peer.vtep_mac?.0, flags };
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
    use flannel_common::address::{V4, V6};

    use super::*;

    fn prefix<A: Family>(subnet: &str) -> Prefix<A> {
        Prefix::of(subnet.parse().unwrap()).unwrap()
    }

    #[test]
    fn each_family_has_its_own_peers() {
        let peer = |subnet: &str, public_ip: &str| Peer {
            subnet: subnet.parse().unwrap(),
            public_ip: public_ip.parse().unwrap(),
            vtep_mac: Some(crate::mac::Mac([2; 6])),
        };
        let peers = [
            peer("10.1.15.0/24", "192.168.64.2"),
            peer("fd44:0:0:15::/64", "fd00::2"),
            peer("fd44:0:0:16::/64", "fd00::3"),
        ];
        let direct = BTreeMap::from([(peers[2].subnet, peers[2].public_ip)]);
        let shown = |(subnet, lease): (&Prefix<V6>, &Lease<V6>)| {
            format!("{subnet} {} {}", lease.public_ip.ip(), lease.flags)
        };
        assert_eq!(
            leases_of::<V6>(&peers, &direct, &Table::default()).iter().map(shown).collect::<Vec<_>>(),
            [
                "fd00::2/128 fd00::2 2",
                "fd00::3/128 fd00::3 2",
                "fd44:0:0:15::/64 fd00::2 0",
                "fd44:0:0:16::/64 fd00::3 8"
            ]
        );
        let v4 = leases_of::<V4>(&peers, &direct, &Table::default());
        assert_eq!(
            v4.iter().map(|(subnet, _)| subnet.to_string()).collect::<Vec<_>>(),
            ["10.1.15.0/24", "192.168.64.2/32"]
        );
    }

    const LEASE: Lease<V4> = Lease { public_ip: [192, 168, 64, 2], vtep_mac: [2; 6], flags: 0 };

    #[test]
    fn a_lease_that_is_gone_is_remembered_for_a_while() {
        let (subnet, start) = (prefix("10.1.15.0/24"), Instant::now());
        let (with, without) = (Table::from([(subnet, LEASE)]), Table::default());
        let mut ended = BTreeMap::new();
        remember(&mut ended, &with, &without, start);
        assert_eq!(ended[&subnet].0, Lease { flags: ENDED, ..LEASE });
        // Its end is not put off by being looked at.
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
    fn one_look_is_enough_for_subnets_that_are_not_divided() {
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
    fn our_own_lease_is_not_remembered() {
        let own = Table::from([(prefix("10.1.15.0/24"), Lease { flags: OWN, ..LEASE })]);
        let mut ended = BTreeMap::new();
        remember(&mut ended, &own, &Table::default(), Instant::now());
        assert!(ended.is_empty());
    }
}
