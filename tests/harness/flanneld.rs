//! What flanneld does on a node when it starts and when leases change, with iproute2 and iptables alone (vxlan, IPv4).
//!
//! It is written from flannel's source (`pkg/backend/vxlan`, `pkg/trafficmngr/iptables`, v0.28) and shares no code with the
//! agent. A start on a node with another daemon's things treats them as flanneld does: it keeps a device that fits, deletes
//! one that does not, replaces entries of known leases and leaves all others alone.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};

use crate::cluster::Node;
use crate::firewall::add_missing;
use crate::subnet_env::{Net, SubnetEnv};

/// Name of the device.
pub const DEVICE: &str = "flannel.1";
const UPLINK: &str = "eth0";
/// Bytes of the outer headers.
const OVERHEAD: u32 = 50;

/// A node's lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The subnet's first address, and its length.
    pub subnet: Net<Ipv4Addr>,
    /// The node's address on the underlay.
    pub public_ip: Ipv4Addr,
    /// The MAC of the node's device.
    pub mac: String,
}

impl Lease {
    /// Returns the value in etcd, without `VNI` as flannel before 0.12 wrote it.
    pub fn value(&self) -> String {
        let Self { public_ip, mac, .. } = self;
        format!(r#"{{"PublicIP":"{public_ip}","BackendType":"vxlan","BackendData":{{"VtepMAC":"{mac}"}}}}"#)
    }

    /// Returns the last part of its key in etcd.
    pub fn name(&self) -> String {
        format!("{}-{}", self.subnet.addr, self.subnet.len)
    }
}

/// Starts flanneld with `--ip-masq` on a node that holds a subnet: device, address, rules and subnet file. A new device gets
/// the stored MAC, or a random one. Returns the node's lease.
pub fn start(
    node: &Node,
    network: Net<Ipv4Addr>,
    subnet: Net<Ipv4Addr>,
    stored_mac: Option<&str>,
) -> Result<Lease> {
    let mac = ensure_device(node, stored_mac).with_context(|| format!("{DEVICE} on {}", node.name()))?;
    node.netns()
        .ip(&[format!("addr replace {}/32 dev {DEVICE}", subnet.addr), format!("link set {DEVICE} up")])?;
    add_missing(node, &subnet.to_string(), &network.to_string())?;
    let gateway = Net { addr: Ipv4Addr::from_bits(subnet.addr.to_bits() | 1), len: subnet.len };
    let mtu = node.mtu() - OVERHEAD;
    let (network, ipv6_network, ipv6_subnet) = (Some(network), None, None);
    let env = SubnetEnv { network, subnet: Some(gateway), ipv6_network, ipv6_subnet, mtu, ip_masq: true };
    env.write(&node.subnet_file())?;
    Ok(Lease { subnet, public_ip: node.ip(), mac })
}

/// Handles leases of other nodes that flanneld has seen to exist: neighbour, FDB entry and route of each.
pub fn add<'a>(node: &Node, peers: impl IntoIterator<Item = &'a Lease>) -> Result<()> {
    for Lease { subnet, public_ip, mac } in peers {
        let base = subnet.addr;
        node.netns().ip(&[format!("neigh replace {base} lladdr {mac} dev {DEVICE} nud permanent")])?;
        node.exec(&format!("bridge fdb replace {mac} dev {DEVICE} dst {public_ip} self permanent"))?;
        node.netns().ip(&[format!("route replace {subnet} via {base} dev {DEVICE} onlink")])?;
    }
    Ok(())
}

/// Returns the MAC of the device, which this creates unless there is one that fits.
fn ensure_device(node: &Node, stored_mac: Option<&str>) -> Result<String> {
    if let Some((mac, fits)) = existing(node)? {
        if fits {
            return Ok(mac);
        }
        node.netns().ip(&[format!("link del {DEVICE}")])?;
    }
    let address = stored_mac.map(|mac| format!("address {mac}")).unwrap_or_default();
    let (mtu, ip) = (node.mtu() - OVERHEAD, node.ip());
    node.netns().ip(&[format!(
        "link add {DEVICE} {address} mtu {mtu} type vxlan id 1 local {ip} dev {UPLINK} srcport 0 0 dstport 8472 nolearning"
    )])?;
    Ok(existing(node)?.context("it was created")?.0)
}

/// Returns the MAC of the device if there is one, and whether flanneld keeps it. One with `l2miss` it does not keep.
fn existing(node: &Node) -> Result<Option<(String, bool)>> {
    let links = node.netns().exec_json("ip -j -d link show type vxlan")?;
    let links = links.as_array().into_iter().flatten();
    let Some(link) = links.into_iter().find(|link| link["ifname"] == DEVICE) else { return Ok(None) };
    let mac = link["address"].as_str().context("a device without a MAC")?.to_owned();
    let options = &link["linkinfo"]["info_data"];
    let fits = options["id"] == 1
        && options["link"] == UPLINK
        && options["local"] == node.ip().to_string().as_str()
        && options["port"] == 8472
        && options["l2miss"] != true;
    Ok(Some((mac, fits)))
}
