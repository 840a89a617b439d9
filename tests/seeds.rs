//! Walks through texts about flannel. Each test follows one text from step to step and checks what its reader sees.
//!
//! | module | text |
//! | --- | --- |
//! | `handbook` | "Flannel": the backends in short, then Docker, CNI and Kubernetes |
//! | `principles` | "Flannel原理" (how flannel works): host-gw, then vxlan and the way of a packet between pods |
//! | `by_hand` | "k8s 二进制部署 八 (flannel)" (Kubernetes from binaries): etcd with certificates, systemd, Docker |
//! | `modes` | "k8s网络插件flannel模式剖析" (flannel's modes): vxlan and DirectRouting, seen with tcpdump |
//!
//! The texts are from 2017 to 2019. A step says so where the programs of today print something else.

mod by_hand;
mod handbook;
mod modes;
mod principles;

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::traffic::{Ping, PingAnswer, ping_with};
use flannel_tests::{Capture, Cluster, Host, NetNs, Node};

/// Last byte of a gateway's address.
const GATEWAY: u8 = 254;

/// The network of two of the texts: subnets of 4096 addresses from a part of the network.
const SMALL_SUBNETS: &str = r#"{
    "Network": "10.0.0.0/8",
    "SubnetLen": 20,
    "SubnetMin": "10.10.0.0",
    "SubnetMax": "10.99.0.0",
    "Backend": {
        "Type": "udp",
        "Port": 7890
    }
}"#;

/// Fails unless the node has a subnet of [`SMALL_SUBNETS`].
fn ensure_small_subnet(node: &Node) -> Result<()> {
    let env = node.subnet_env()?;
    let (network, subnet) = (env.network.context("a network")?, env.subnet.context("a subnet")?);
    let base = Ipv4Addr::from_bits(subnet.addr.to_bits() & !0xfff);
    let range = Ipv4Addr::new(10, 10, 0, 0)..=Ipv4Addr::new(10, 99, 0, 0);
    ensure!(network.to_string() == "10.0.0.0/8" && subnet.len == 20, "{env:?}");
    ensure!(range.contains(&base) && subnet.addr.to_bits() & 0xfff == 1, "{env:?}");
    Ok(())
}

/// Gives the nodes' uplinks the name and the addresses that a text shows: the first address to the first node, the next
/// one to the second node, and so on.
fn rename_uplinks(cluster: &Cluster, uplink: &str, first: Ipv4Addr) -> Result<()> {
    let [a, b, c, host] = first.octets();
    let gateway = Ipv4Addr::new(a, b, c, GATEWAY);
    let fabric = cluster.fabric().context("nodes on a switch")?;
    fabric.ip(&[format!("addr add {gateway}/24 dev seg0")])?;
    for (node, host) in cluster.nodes().iter().zip(host..) {
        node.netns().ip(&[
            "link set eth0 down".to_owned(),
            format!("link set eth0 name {uplink}"),
            format!("addr flush dev {uplink}"),
            format!("addr add {a}.{b}.{c}.{host}/24 dev {uplink}"),
            format!("link set {uplink} up"),
            format!("route add default via {gateway} dev {uplink} proto static metric 100"),
        ])?;
    }
    Ok(())
}

/// Fails unless the command prints each of these parts.
fn ensure_shows(node: &Node, command: &str, parts: &[&str]) -> Result<()> {
    let shown = node.exec(command)?;
    for part in parts {
        ensure!(shown.contains(part), "`{command}` on {} does not show {part:?}: {shown}", node.name());
    }
    Ok(())
}

/// ICMP types, as tshark prints them.
pub(crate) const REPLY: &str = "0";
const REQUEST: &str = "8";
/// Pings of a series.
const PINGS: usize = 4;

/// Source, destination and ICMP type of a packet.
type Icmp = [String; 3];

/// Pings between pods of two nodes, seen on the sender's node.
pub(crate) struct Pings<'a> {
    /// The sender's node.
    pub(crate) node: &'a NetNs,
    pub(crate) from: &'a dyn Host,
    pub(crate) to: &'a dyn Host,
}

impl Pings<'_> {
    /// Pings while capturing on an interface of the node, as the texts do with tcpdump. Each reply has passed two routers,
    /// the nodes.
    pub(crate) fn captured(&self, interface: &str) -> Result<Capture> {
        let capture = Capture::start(self.node, interface)?;
        for _ in 0..PINGS {
            let answer = ping_with(self.from, self.to.ip(), &Ping::default())?;
            ensure!(
                matches!(answer, PingAnswer::Reply { ttl: Some(62), .. }),
                "no reply of TTL 62: {answer:?}"
            );
        }
        capture.stop()
    }

    /// Returns the ICMP packets of these pings that `tcpdump -nn icmp` on the interface prints.
    pub(crate) fn icmp(&self, interface: &str) -> Result<Vec<Icmp>> {
        self.icmp_in(&self.captured(interface)?)
    }

    fn icmp_in(&self, capture: &Capture) -> Result<Vec<Icmp>> {
        let ends = format!("ip.addr == {} && ip.addr == {}", self.from.ip(), self.to.ip());
        let lines =
            capture.fields(&format!("icmp && !vxlan && {ends}"), &["ip.src", "ip.dst", "icmp.type"])?;
        lines.into_iter().map(|line| line.try_into().ok().context("three fields")).collect()
    }

    /// Returns the requests and replies of these pings, in order.
    pub(crate) fn both_ways(&self) -> Vec<Icmp> {
        let (from, to) = (self.from.ip().to_string(), self.to.ip().to_string());
        let request = [from.clone(), to.clone(), REQUEST.to_owned()];
        std::iter::repeat_n([request, [to, from, REPLY.to_owned()]], PINGS).flatten().collect()
    }

    /// Checks that the uplink carries these pings in VXLAN between these two nodes, and nothing of them bare. tcpdump
    /// prints "IP 172.16.1.101.60617 > 172.16.1.102.8472: OTV, flags [I] (0x08), overlay 0, instance 1" and the pod's
    /// packet.
    pub(crate) fn ensure_encapsulated(&self, uplink: &str, own: Ipv4Addr, peer: Ipv4Addr) -> Result<()> {
        let capture = self.captured(uplink)?;
        let bare = self.icmp_in(&capture)?;
        ensure!(bare.is_empty(), "bare ICMP on {uplink}: {bare:?}");
        let fields = ["ip.src", "ip.dst", "udp.dstport", "vxlan.flags", "vxlan.vni", "icmp.type"];
        let ends = format!("ip.addr == {} && ip.addr == {}", self.from.ip(), self.to.ip());
        let outer = capture.fields(&format!("vxlan && icmp && {ends}"), &fields)?;
        let expected = self.both_ways().into_iter().map(|[from, to, kind]| {
            let [source, destination] = if kind == REQUEST { [own, peer] } else { [peer, own] };
            [
                format!("{source},{from}"),
                format!("{destination},{to}"),
                "8472".into(),
                "0x0800".into(),
                "1".into(),
                kind,
            ]
        });
        let expected: Vec<_> = expected.collect();
        ensure!(outer == expected, "on {uplink}: {outer:#?} instead of {expected:#?}");
        let ports = capture.fields(&format!("vxlan && icmp.type == 8 && {ends}"), &["udp.srcport"])?;
        ensure!(ports.windows(2).all(|pair| pair[0] == pair[1]), "a flow has one outer port: {ports:?}");
        Ok(())
    }

    /// Checks that the uplink carries these pings as they are.
    pub(crate) fn ensure_direct(&self, uplink: &str) -> Result<()> {
        let capture = self.captured(uplink)?;
        let bare = self.icmp_in(&capture)?;
        ensure!(bare == self.both_ways(), "on {uplink}: {bare:?}");
        let ends = format!("ip.addr == {} && ip.addr == {}", self.from.ip(), self.to.ip());
        ensure!(capture.count(&format!("vxlan && {ends}"))? == 0, "a packet is encapsulated");
        Ok(())
    }
}
