//! The filter that copies packets of the uplink to a packet socket, for `flannel-agent monitor --pcap`.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::{Array, PerCpuArray};
use aya::programs::SocketFilter;
use flannel_common::capture::{Net, PROGRAM, RATES, Rate, WANTED, Wanted};
use ipnet::IpNet;

use super::dry_run::node;
use super::pins::{Pins, overlays};
use crate::netlink::address::mapped;

/// The compiled filter.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/capture"));

/// The loaded filter.
#[derive(Debug)]
pub struct Capture(Ebpf);

impl Capture {
    /// Loads the filter.
    ///
    /// # Errors
    /// No privilege, or the kernel refuses.
    pub fn load(wanted: &Wanted) -> Result<Self> {
        let mut ebpf = Ebpf::load(OBJECT).context("loading the maps of the filter")?;
        let map = ebpf.map_mut(WANTED).context("the filter has no map of what is wanted")?;
        Array::<_, Wanted>::try_from(map)?.set(0, wanted, 0).context("telling the filter what is wanted")?;
        filter(&mut ebpf)?.load().context("loading the filter")?;
        Ok(Self(ebpf))
    }

    /// Makes a packet socket receive what the filter chooses. A socket that is closed keeps nothing loaded.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach(&mut self, socket: impl AsFd) -> Result<()> {
        filter(&mut self.0)?.attach(socket).context("attaching the filter")
    }

    /// Returns how many packets were left out because there were too many.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn left_out(&self) -> Result<u64> {
        let map = self.0.map(RATES).context("the filter has no map of what it has counted")?;
        let rates: PerCpuArray<_, Rate> = map.try_into()?;
        let each_cpu = rates.get(&0, 0).context("reading the map of the filter")?;
        Ok(each_cpu.iter().map(|rate| rate.left_out).sum())
    }
}

/// Returns where the packets of this node's overlays are: the index of the uplink, and VNI and port as [`Wanted`] has them.
///
/// # Errors
/// There are no programs, or they are of another version.
pub fn places(bpffs: &Path) -> Result<BTreeSet<(u32, u32, [u8; 2])>> {
    let mut places = BTreeSet::new();
    for vni in overlays(bpffs)? {
        let node = node(&Pins::new(bpffs, vni))?;
        let uplinks = [node.v4.uplink_ifindex, node.v6.uplink_ifindex];
        places
            .extend(uplinks.into_iter().filter(|uplink| *uplink != 0).map(|uplink| (uplink, vni, node.port)));
    }
    Ok(places)
}

fn filter(ebpf: &mut Ebpf) -> Result<&mut SocketFilter> {
    Ok(ebpf.program_mut(PROGRAM).context("there is no filter")?.try_into()?)
}

/// Returns a network as the filter compares addresses with it.
#[must_use]
pub fn net(net: IpNet) -> Net {
    let net = net.trunc();
    let zeroes = net.max_prefix_len() - net.prefix_len();
    let bits = u128::MAX.checked_shl(zeroes.into()).unwrap_or_default();
    Net { address: mapped(net.addr()), mask: bits.to_be_bytes() }
}

#[cfg(test)]
mod tests {
    use flannel_common::address::{Address as _, V4};

    use super::*;

    #[test]
    fn prefixes_become_masks() {
        for (text, address, ones) in [
            ("10.5.1.7/24", "::ffff:10.5.1.0", 120),
            ("10.5.1.7/32", "::ffff:10.5.1.7", 128),
            ("0.0.0.0/0", "::ffff:0.0.0.0", 96),
            ("fd00:1::7/64", "fd00:1::", 64),
            ("::/0", "::", 0),
        ] {
            let Net { address: found, mask } = net(text.parse().unwrap());
            assert_eq!(std::net::Ipv6Addr::from(found).to_string(), address, "{text}");
            assert_eq!(u128::from_be_bytes(mask).leading_ones(), ones, "{text}");
            assert_eq!(u128::from_be_bytes(mask).count_ones(), ones, "{text}");
        }
    }

    #[test]
    fn addresses_of_ipv4_are_mapped() {
        let address: V4 = [10, 5, 1, 7];
        assert_eq!(net("10.5.1.7/32".parse().unwrap()).address, address.mapped());
    }
}
