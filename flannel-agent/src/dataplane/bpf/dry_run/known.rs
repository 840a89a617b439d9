//! Contents of the maps, with addresses of either family.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail};
use aya::maps::Map;
use aya::maps::lpm_trie::Key;
use flannel_common::address::{V4, V6};
use flannel_common::flow::FlowKey;
use flannel_common::lease::{Lease, NETWORK};
use flannel_common::node::{NodeConfig, OverlayEnd};
use ipnet::IpNet;

use crate::dataplane::bpf::batch::Batch;
use crate::dataplane::bpf::family::MapFamily;
use crate::mac::Mac;

/// Leases that one system call reads.
const AT_ONCE: usize = 4096;

/// A lease in a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// The public address of the node that holds it.
    pub public_ip: IpAddr,
    /// MAC of the node's vxlan device.
    pub vtep_mac: Mac,
    /// The flags of [`Lease::flags`].
    pub flags: u16,
}

/// The node's end of one family's overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OurEnd {
    /// Index of the vxlan device; 0: packets have no tunnel.
    pub device: u32,
    /// Index of the uplink.
    pub uplink: u32,
    /// The node's address on the uplink.
    pub local_ip: IpAddr,
    /// MAC of the vxlan device.
    pub vtep_mac: Mac,
}

/// Both ends of a flow of a pod on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The pod's address and port.
    pub pod: SocketAddr,
    /// The other end's address, of the same family, and port.
    pub remote: SocketAddr,
    /// IP protocol number.
    pub protocol: u8,
}

impl Ends {
    /// Returns the flow's key in the map of this family, if it is of this family.
    pub(super) fn key<A: MapFamily>(&self) -> Option<FlowKey<A>> {
        let Self { pod, remote, protocol } = *self;
        Some(FlowKey {
            pod: A::of(pod.ip())?,
            remote: A::of(remote.ip())?,
            pod_port: pod.port().to_be_bytes(),
            remote_port: remote.port().to_be_bytes(),
            protocol: [protocol, 0, 0, 0],
        })
    }
}

impl OurEnd {
    /// Returns the node's end of the overlay of this address's family, if there is one.
    pub(super) fn of(node: &NodeConfig, address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => Self::of_family::<V4>(node),
            IpAddr::V6(_) => Self::of_family::<V6>(node),
        }
    }

    fn of_family<A: MapFamily>(node: &NodeConfig) -> Option<Self> {
        let ours = A::ours(node);
        let OverlayEnd { overlay_ifindex: device, uplink_ifindex: uplink, local_ip, vtep_mac, .. } = *ours;
        ours.is_configured().then(|| Self {
            device,
            uplink,
            local_ip: local_ip.ip(),
            vtep_mac: Mac(vtep_mac),
        })
    }
}

/// Reads the leases of one family from its map.
pub(in crate::dataplane::bpf) fn leases<A: MapFamily>(map: Map) -> Result<BTreeMap<IpNet, Held>> {
    let Map::LpmTrie(map) = &map else { bail!("{} is no LPM trie", A::LEASES) };
    let mut entries = Vec::new();
    let batch = Batch::<Key<A>, Lease<A>>::new(map)?;
    let read =
        batch.read(AT_ONCE, |keys, leases| entries.extend(keys.iter().copied().zip(leases.iter().copied())));
    read.with_context(|| format!("reading {}", A::LEASES))?;
    let mut leases = BTreeMap::new();
    for (key, Lease { public_ip, vtep_mac, flags, .. }) in entries {
        if flags & NETWORK == 0 {
            let subnet = IpNet::new(key.data().ip(), u8::try_from(key.prefix_len())?)?;
            leases.insert(subnet, Held { public_ip: public_ip.ip(), vtep_mac: Mac(vtep_mac), flags });
        }
    }
    Ok(leases)
}
