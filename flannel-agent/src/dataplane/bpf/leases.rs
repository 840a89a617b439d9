//! `LEASES`: which node a pod address belongs to.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail};
use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, Map, MapData};
use flannel_common::lease::{Lease, OWN};
use ipnet::{IpNet, Ipv4Net};

use super::batch;
use crate::dataplane::desired::{Changes, Peer};

/// The map, and what it holds.
pub(super) struct Leases {
    map: LpmTrie<MapData, [u8; 4], Lease>,
    /// The same map, for requests that `aya` does not have.
    fd: OwnedFd,
    current: BTreeMap<Ipv4Net, Lease>,
    own: Option<(Ipv4Net, Lease)>,
}

impl Leases {
    /// Takes over the map with what an earlier agent left in it.
    pub(super) fn open(map: Map) -> Result<Self> {
        let Map::LpmTrie(data) = &map else { bail!("LEASES is no LPM trie") };
        let fd = data.fd().as_fd().try_clone_to_owned().context("duplicating a file descriptor")?;
        let map = LpmTrie::try_from(map)?;
        let current = entries(&map)?;
        Ok(Self { map, fd, current, own: None })
    }

    /// From now on the map holds this, the node's own lease, beside those of the peers.
    pub(super) fn set_own(&mut self, subnet: Ipv4Net, public_ip: [u8; 4], vtep_mac: [u8; 6]) {
        self.own = Some((subnet, Lease { public_ip, vtep_mac, flags: OWN }));
    }

    /// Makes the map hold exactly these peers and ourselves.
    pub(super) fn apply(&mut self, peers: &[Peer]) -> Result<()> {
        let mut desired = leases_of(peers);
        desired.extend(self.own);
        let changes = Changes::between(&self.current, &desired);
        let written = self.write(&changes);
        // After a failure only the map itself knows.
        self.current = if written.is_ok() { desired } else { entries(&self.map)? };
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

/// The peers as `LEASES` has them: IPv4 subnets behind IPv4 addresses.
fn leases_of(peers: &[Peer]) -> BTreeMap<Ipv4Net, Lease> {
    let lease = |peer: &Peer| match (peer.subnet, peer.public_ip) {
        (IpNet::V4(subnet), IpAddr::V4(public_ip)) => {
            Some((subnet, Lease { public_ip: public_ip.octets(), vtep_mac: peer.vtep_mac.0, flags: 0 }))
        }
        _ => None,
    };
    peers.iter().filter_map(lease).collect()
}

fn key(subnet: Ipv4Net) -> Key<[u8; 4]> {
    Key::new(subnet.prefix_len().into(), subnet.network().octets())
}

fn entries(map: &LpmTrie<MapData, [u8; 4], Lease>) -> Result<BTreeMap<Ipv4Net, Lease>> {
    map.iter()
        .map(|entry| {
            let (key, lease) = entry.context("reading LEASES")?;
            Ok((Ipv4Net::new(Ipv4Addr::from(key.data()), u8::try_from(key.prefix_len())?)?, lease))
        })
        .collect()
}
