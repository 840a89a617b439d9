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
use flannel_tests::{Capture, Cluster, Node};

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

/// Returns source, destination and ICMP type of the packets that `tcpdump -nn icmp` would print.
fn icmp(capture: &Capture) -> Result<Vec<[String; 3]>> {
    let lines = capture.fields("icmp && !vxlan", &["ip.src", "ip.dst", "icmp.type"])?;
    lines.into_iter().map(|line| line.try_into().ok().context("three fields")).collect()
}
