//! Nodes set up the way flanneld sets them up, with iproute2 and iptables alone: what others are compared with.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};

use crate::cluster::Node;
use crate::firewall::firewall;
use crate::subnet_env::{Net, SubnetEnv};

/// The pods' network.
pub const NETWORK: Net<Ipv4Addr> = Net { addr: Ipv4Addr::new(10, 244, 0, 0), len: 16 };
const DEVICE: &str = "flannel.1";
const VXLAN_OVERHEAD: u32 = 50;

/// What flanneld would lease to a node.
#[derive(Debug)]
struct Lease<'a> {
    node: &'a Node,
    subnet: Net<Ipv4Addr>,
    mac: String,
}

/// Joins the nodes by the kernel's vxlan device, as flanneld's vxlan backend does, and writes each `subnet.env`.
pub fn vxlan(nodes: &[Node]) -> Result<()> {
    let leases = leases(nodes)?;
    for own in &leases {
        own.write_subnet_env(own.node.mtu() - VXLAN_OVERHEAD)?;
        own.add_device().with_context(|| format!("set up kernel vxlan on {}", own.node.name()))?;
        let peers: Vec<_> = leases.iter().filter(|peer| peer.subnet != own.subnet).collect();
        let lines: Vec<_> = peers.iter().flat_map(|peer| peer.overlay_lines()).collect();
        own.node.netns().ip(&lines)?;
        let lines: Vec<_> = peers.iter().map(|peer| peer.fdb_line()).collect();
        own.node.netns().batch("bridge", &lines)?;
        own.firewall()?;
    }
    Ok(())
}

/// Joins nodes of one segment by plain routes, as flanneld's host-gw backend does, and writes each `subnet.env`.
pub fn host_gw(nodes: &[Node]) -> Result<()> {
    let leases = leases(nodes)?;
    for own in &leases {
        own.write_subnet_env(own.node.mtu())?;
        let peers = leases.iter().filter(|peer| peer.subnet != own.subnet);
        let lines: Vec<_> = peers.map(Lease::direct_line).collect();
        own.node.netns().ip(&lines).with_context(|| format!("set up host-gw on {}", own.node.name()))?;
        own.firewall()?;
    }
    Ok(())
}

/// The first node has 10.244.1.0/24, the second 10.244.2.0/24.
fn leases(nodes: &[Node]) -> Result<Vec<Lease<'_>>> {
    let lease = |(node, number)| {
        let subnet = Net { addr: Ipv4Addr::new(10, 244, number, 0), len: 24 };
        Lease { node, subnet, mac: format!("2a:f1:a0:00:00:{number:02x}") }
    };
    u8::try_from(nodes.len()).context("too many nodes for a /16 of /24s")?;
    Ok(nodes.iter().zip(1..=u8::MAX).map(lease).collect())
}

impl Lease<'_> {
    fn write_subnet_env(&self, mtu: u32) -> Result<()> {
        let [a, b, c, _] = self.subnet.addr.octets();
        let subnet = Net { addr: Ipv4Addr::new(a, b, c, 1), len: self.subnet.len };
        let (network, subnet) = (Some(NETWORK), Some(subnet));
        let env = SubnetEnv { network, subnet, ipv6_network: None, ipv6_subnet: None, mtu, ip_masq: true };
        env.write(&self.node.subnet_file())
    }

    fn add_device(&self) -> Result<()> {
        let (mac, ip, base) = (&self.mac, self.node.ip(), self.subnet.addr);
        let mtu = self.node.mtu() - VXLAN_OVERHEAD;
        self.node.netns().ip(&[
            format!(
                "link add {DEVICE} address {mac} mtu {mtu} type vxlan id 1 local {ip} dev eth0 \
                 srcport 0 0 dstport 8472 nolearning"
            ),
            format!("addr add {base}/32 dev {DEVICE}"),
            format!("link set {DEVICE} up"),
        ])
    }

    fn overlay_lines(&self) -> [String; 2] {
        let (subnet, base, mac) = (self.subnet, self.subnet.addr, &self.mac);
        [
            format!("neigh add {base} lladdr {mac} dev {DEVICE} nud permanent"),
            format!("route add {subnet} via {base} dev {DEVICE} onlink"),
        ]
    }

    fn fdb_line(&self) -> String {
        format!("fdb add {} dev {DEVICE} dst {} self permanent", self.mac, self.node.ip())
    }

    fn direct_line(&self) -> String {
        format!("route add {} via {} dev eth0", self.subnet, self.node.ip())
    }

    fn firewall(&self) -> Result<()> {
        firewall(self.node, &self.subnet.to_string(), &NETWORK.to_string())
    }
}
