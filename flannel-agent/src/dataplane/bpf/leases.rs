//! `LEASES`: which node a pod address belongs to.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, Map, MapData};
use flannel_common::lease::{ENDED, Lease, NODE, OWN};
use ipnet::{IpNet, Ipv4Net};

use super::batch;
use crate::dataplane::desired::{Changes, Peer};
use crate::dataplane::table;

/// The map, and what it holds.
pub(super) struct Leases {
    map: LpmTrie<MapData, [u8; 4], Lease>,
    /// The same map, for requests that `aya` does not have.
    fd: OwnedFd,
    current: Table,
    own: Table,
    /// Leases of the recent past, and until when they are remembered.
    ended: BTreeMap<Ipv4Net, (Lease, Instant)>,
}

type Table = table::Table<Ipv4Net, Lease>;

/// A lease that is lost is often taken again at once; what its node sends meanwhile is not forged.
const REMEMBERED: Duration = Duration::from_secs(30);

impl Leases {
    /// Takes over the map with what an earlier agent left in it.
    pub(super) fn open(map: Map) -> Result<Self> {
        let Map::LpmTrie(data) = &map else { bail!("LEASES is no LPM trie") };
        let fd = data.fd().as_fd().try_clone_to_owned().context("duplicating a file descriptor")?;
        let map = LpmTrie::try_from(map)?;
        let current = entries(&map)?;
        Ok(Self { map, fd, current, own: Table::default(), ended: BTreeMap::new() })
    }

    /// From now on the map holds this, the node's own lease, beside those of the peers.
    pub(super) fn set_own(&mut self, subnet: Ipv4Net, public_ip: [u8; 4], vtep_mac: [u8; 6]) {
        let own = Lease { public_ip, vtep_mac, flags: OWN };
        self.own = Table::from([(subnet, own), (host(public_ip), own)]);
    }

    /// Makes the map hold exactly these peers and ourselves.
    pub(super) fn apply(&mut self, peers: &[Peer]) -> Result<()> {
        let now = Instant::now();
        let wanted = leases_of(peers, &self.own);
        remember(&mut self.ended, &self.current, &wanted, now);
        let ended = self.ended.iter().map(|(subnet, (lease, _))| (*subnet, *lease));
        let desired = if self.ended.is_empty() { wanted } else { wanted.into_iter().chain(ended).collect() };
        let changes = Changes::between(&self.current, &desired);
        let written = self.write(&changes);
        self.current = desired;
        self.known(written)
    }

    /// Adds these peers; false, with nothing done, if it is not done with adding.
    pub(super) fn grow(&mut self, joined: &[Peer]) -> Result<bool> {
        let more = leases_of(joined, &Table::default());
        if !self.ended.is_empty() || !self.current.is_apart_from(&more) {
            return Ok(false);
        }
        let written = self.write(&Changes::between(&Table::default(), &more));
        self.current.extend(more);
        self.known(written).map(|()| true)
    }

    /// After a failure only the map itself knows what it holds.
    fn known(&mut self, written: Result<()>) -> Result<()> {
        if written.is_err() {
            self.current = entries(&self.map)?;
        }
        written
    }

    /// Many at once, and then one by one what is left: what the kernel refused, or all if it cannot do many.
    fn write(&mut self, Changes { set, remove }: &Changes<Ipv4Net, Lease>) -> Result<()> {
        let (keys, leases): (Vec<_>, Vec<_>) =
            set.iter().map(|(subnet, lease)| (key(*subnet), *lease)).unzip();
        let done = batch::update(&self.fd, &keys, &leases);
        for (subnet, lease) in set.iter().skip(done) {
            let inserted = self.map.insert(&key(*subnet), lease, 0);
            inserted.with_context(|| format!("lease {subnet} into LEASES"))?;
        }
        let keys: Vec<_> = remove.iter().map(|(subnet, _)| key(*subnet)).collect();
        let done = batch::delete(&self.fd, &keys);
        for (subnet, _) in remove.iter().skip(done) {
            self.map.remove(&key(*subnet)).with_context(|| format!("lease {subnet} out of LEASES"))?;
        }
        Ok(())
    }
}

/// Takes up the peers' leases that are not wanted any more, and lets go of those that are again, or have been
/// remembered long enough.
fn remember(ended: &mut BTreeMap<Ipv4Net, (Lease, Instant)>, current: &Table, wanted: &Table, now: Instant) {
    ended.retain(|subnet, (_, until)| *until > now && !wanted.contains_key(subnet));
    let gone = Changes::between(current, wanted).remove.into_iter();
    let peers = gone.filter(|(_, lease)| lease.flags & !NODE == 0);
    ended.extend(
        peers.map(|(subnet, lease)| {
            (subnet, (Lease { flags: lease.flags | ENDED, ..lease }, now + REMEMBERED))
        }),
    );
}

/// The peers as `LEASES` has them: IPv4 subnets behind IPv4 addresses, and these addresses. And ourselves.
fn leases_of(peers: &[Peer], own: &Table) -> Table {
    let lease = |peer: &Peer| match (peer.subnet, peer.public_ip, peer.vtep_mac) {
        (IpNet::V4(subnet), IpAddr::V4(public_ip), Some(mac)) => {
            Some((subnet, Lease { public_ip: public_ip.octets(), vtep_mac: mac.0, flags: 0 }))
        }
        _ => None,
    };
    let leases = peers.iter().filter_map(lease);
    let nodes = leases.clone().map(|(_, lease)| (host(lease.public_ip), Lease { flags: NODE, ..lease }));
    let own = own.iter().map(|(subnet, lease)| (*subnet, *lease));
    leases.clone().chain(nodes).chain(own).collect()
}

/// One address.
fn host(address: [u8; 4]) -> Ipv4Net {
    Ipv4Addr::from(address).into()
}

fn key(subnet: Ipv4Net) -> Key<[u8; 4]> {
    Key::new(subnet.prefix_len().into(), subnet.network().octets())
}

/// What the map holds.
pub(super) fn entries(map: &LpmTrie<MapData, [u8; 4], Lease>) -> Result<Table> {
    map.iter()
        .map(|entry| {
            let (key, lease) = entry.context("reading LEASES")?;
            Ok((Ipv4Net::new(Ipv4Addr::from(key.data()), u8::try_from(key.prefix_len())?)?, lease))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Lease = Lease { public_ip: [192, 168, 64, 2], vtep_mac: [2; 6], flags: 0 };

    #[test]
    fn a_lease_that_is_gone_is_remembered_for_a_while() {
        let (subnet, start): (Ipv4Net, _) = ("10.1.15.0/24".parse().unwrap(), Instant::now());
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
    fn our_own_lease_is_not_remembered() {
        let own = Table::from([("10.1.15.0/24".parse().unwrap(), Lease { flags: OWN, ..LEASE })]);
        let mut ended = BTreeMap::new();
        remember(&mut ended, &own, &Table::default(), Instant::now());
        assert!(ended.is_empty());
    }
}
