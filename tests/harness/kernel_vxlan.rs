//! Sets nodes up as flanneld does, with iproute2 and iptables alone, for comparisons.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};

use crate::cluster::Node;
use crate::firewall::firewall;
use crate::parallel::in_parallel;
use crate::subnet_env::{Net, SubnetEnv};

/// The pods' network.
pub const NETWORK: Net<Ipv4Addr> = Net { addr: Ipv4Addr::new(10, 244, 0, 0), len: 16 };
/// The device that flanneld makes.
pub const DEVICE: &str = "flannel.1";
const VXLAN_OVERHEAD: u32 = 50;

/// The subnet and MAC that flanneld would give to a node.
#[derive(Debug)]
struct NodeLease<'a> {
    node: &'a Node,
    subnet: Net<Ipv4Addr>,
    mac: String,
}

/// Joins the nodes by the kernel's vxlan device, as flanneld's vxlan backend does, and writes each `subnet.env`.
pub fn vxlan(nodes: &[Node]) -> Result<()> {
    let leases = leases(nodes)?;
    in_parallel(leases.iter().collect(), |own: &NodeLease<'_>| own.join_overlay(&leases)).map(drop)
}

/// Joins nodes of one segment by plain routes, as flanneld's host-gw backend does, and writes each `subnet.env`.
pub fn host_gw(nodes: &[Node]) -> Result<()> {
    let leases = leases(nodes)?;
    in_parallel(leases.iter().collect(), |own: &NodeLease<'_>| own.join_directly(&leases)).map(drop)
}

/// Gives the first node 10.244.1.0/24, the second 10.244.2.0/24 and so on.
fn leases(nodes: &[Node]) -> Result<Vec<NodeLease<'_>>> {
    let lease = |(node, number)| {
        let subnet = Net { addr: Ipv4Addr::new(10, 244, number, 0), len: 24 };
        NodeLease { node, subnet, mac: format!("2a:f1:a0:00:00:{number:02x}") }
    };
    u8::try_from(nodes.len()).context("too many nodes for a /16 of /24s")?;
    Ok(nodes.iter().zip(1..=u8::MAX).map(lease).collect())
}

impl NodeLease<'_> {
    fn join_overlay(&self, all: &[NodeLease<'_>]) -> Result<()> {
        self.write_subnet_env(self.node.mtu() - VXLAN_OVERHEAD)?;
        self.add_device().with_context(|| format!("set up kernel vxlan on {}", self.node.name()))?;
        let lines: Vec<_> = self.peers(all).flat_map(NodeLease::overlay_lines).collect();
        self.node.netns().ip(&lines)?;
        let lines: Vec<_> = self.peers(all).map(NodeLease::fdb_line).collect();
        self.node.netns().batch("bridge", &lines)?;
        self.firewall()
    }

    fn join_directly(&self, all: &[NodeLease<'_>]) -> Result<()> {
        self.write_subnet_env(self.node.mtu())?;
        let lines: Vec<_> = self.peers(all).map(NodeLease::direct_line).collect();
        self.node.netns().ip(&lines).with_context(|| format!("set up host-gw on {}", self.node.name()))?;
        self.firewall()
    }

    fn peers<'a>(&self, all: &'a [NodeLease<'a>]) -> impl Iterator<Item = &'a NodeLease<'a>> {
        let own = self.subnet;
        all.iter().filter(move |peer| peer.subnet != own)
    }

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
                 srcport 0 0 dstport 8472 nolearning noudpcsum"
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
