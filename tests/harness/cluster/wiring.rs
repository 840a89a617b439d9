//! Creates the namespaces of a cluster and the links between them, with few processes.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};

use super::cards;
use super::topology::{Medium, Topology};
use crate::netns::NetNs;
use crate::parallel::in_parallel;

/// Last byte of the gateway's address on each segment.
const GATEWAY: u8 = 254;
const FIRST_SEGMENT: u8 = 64;
const MAX_NODES: usize = 250;

pub(super) struct Wiring {
    pub(super) nodes: Vec<Wired>,
    pub(super) fabric: Option<NetNs>,
    pub(super) mgmt: NetNs,
}

pub(super) struct Wired {
    pub(super) label: String,
    pub(super) netns: NetNs,
    pub(super) ip: Ipv4Addr,
    pub(super) ip6: Ipv6Addr,
    pub(super) mtu: u32,
}

pub(super) fn wire(tag: &str, topology: &Topology) -> Result<Wiring> {
    let places: Vec<_> = topology.places().collect();
    ensure!((1..=MAX_NODES).contains(&places.len()), "a cluster has 1 to {MAX_NODES} nodes");
    let labels: Vec<_> = (1..=places.len()).map(|number| format!("node{number}")).collect();
    let (nodes, fabric, mgmt) = namespaces(tag, &labels, topology.medium)?;
    let mut links: Vec<_> = nodes.iter().enumerate().map(|(i, node)| management_link(i, node)).collect();
    match (&fabric, topology.medium) {
        (Some(fabric), _) => links.extend(nodes.iter().enumerate().map(|(i, node)| uplink(i, node, fabric))),
        (None, Medium::Cards) => cards::give(&nodes)?,
        (None, _) => links.push(cable(&nodes[0], &nodes[1])),
    }
    mgmt.ip(&links)?;
    switch_on_management(&mgmt, nodes.len())?;
    if let Some(fabric) = &fabric {
        switch_on_fabric(fabric, topology, &places)?;
    }
    let nodes = nodes.into_iter().zip(labels).zip(&places).enumerate();
    let nodes = in_parallel(nodes.collect(), |(i, ((netns, label), place))| {
        switch_on_node(i, netns, label, *place, topology.mtu)
    })?;
    Ok(Wiring { nodes, fabric, mgmt })
}

fn namespaces(tag: &str, labels: &[String], medium: Medium) -> Result<(Vec<NetNs>, Option<NetNs>, NetNs)> {
    let fabric = (medium == Medium::Switched).then_some("fabric");
    let others = fabric.into_iter().chain(["mgmt"]);
    let names: Vec<_> =
        labels.iter().map(String::as_str).chain(others).map(|l| format!("{tag}-{l}")).collect();
    let mut made = NetNs::create_all(&names)?;
    let mgmt = made.pop().context("no management namespace was made")?;
    let fabric = fabric.and_then(|_| made.pop());
    Ok((made, fabric, mgmt))
}

fn management_link(i: usize, node: &NetNs) -> String {
    format!("link add n{i} type veth peer name mgmt0 netns {}", node.name())
}

fn uplink(i: usize, node: &NetNs, fabric: &NetNs) -> String {
    format!("link add eth0 netns {} type veth peer name n{i} netns {}", node.name(), fabric.name())
}

fn cable(a: &NetNs, b: &NetNs) -> String {
    format!("link add eth0 netns {} type veth peer name eth0 netns {}", a.name(), b.name())
}

fn switch_on_management(mgmt: &NetNs, nodes: usize) -> Result<()> {
    let mut lines = vec![
        "link set lo up".to_owned(),
        "link add mgmt type bridge".to_owned(),
        "link set mgmt up".to_owned(),
        format!("addr add {}/24 dev mgmt", super::MGMT),
    ];
    lines.extend((0..nodes).map(|i| format!("link set n{i} master mgmt up")));
    mgmt.ip(&lines)
}

fn switch_on_fabric(fabric: &NetNs, topology: &Topology, places: &[(usize, usize)]) -> Result<()> {
    fabric.set(&[("net.ipv4.ip_forward", "1"), ("net.ipv6.conf.all.forwarding", "1")])?;
    let mtu = topology.mtu;
    let mut lines = vec!["link set lo up".to_owned()];
    for segment in 0..topology.segments.len() {
        let (v4, v6) = addresses(segment, usize::from(GATEWAY))?;
        lines.push(format!("link add seg{segment} mtu {mtu} type bridge"));
        lines.push(format!("addr add {v4}/24 dev seg{segment}"));
        lines.push(format!("addr add {v6}/64 dev seg{segment}"));
        lines.push(format!("link set seg{segment} up"));
    }
    let ports = places.iter().enumerate();
    lines.extend(ports.map(|(i, (segment, _))| format!("link set n{i} mtu {mtu} master seg{segment} up")));
    fabric.ip(&lines)
}

const NODE_SYSCTLS: [(&str, &str); 6] = [
    ("net.ipv4.ip_forward", "1"),
    ("net.ipv6.conf.all.forwarding", "1"),
    ("net.ipv4.conf.all.rp_filter", "0"),
    ("net.ipv4.conf.default.rp_filter", "0"),
    ("net.ipv6.conf.all.accept_ra", "0"),
    ("net.ipv6.conf.default.accept_ra", "0"),
];

fn switch_on_node(i: usize, netns: NetNs, label: String, place: (usize, usize), mtu: u32) -> Result<Wired> {
    let (ip, ip6) = addresses(place.0, place.1)?;
    let (gateway, gateway6) = addresses(place.0, usize::from(GATEWAY))?;
    netns.set(&NODE_SYSCTLS)?;
    netns.ip(&[
        "link set lo up".to_owned(),
        format!("addr add 169.254.77.{}/24 scope link dev mgmt0", i + 2),
        "link set mgmt0 up".to_owned(),
        format!("addr add {ip}/24 dev eth0"),
        format!("addr add {ip6}/64 dev eth0"),
        format!("link set eth0 mtu {mtu} up"),
        format!("route add default via {gateway} dev eth0"),
        format!("route add default via {gateway6} dev eth0"),
    ])?;
    Ok(Wired { label, netns, ip, ip6, mtu })
}

fn addresses(segment: usize, host: usize) -> Result<(Ipv4Addr, Ipv6Addr)> {
    let (segment, host) = (u8::try_from(segment)?, u8::try_from(host)?);
    let subnet = FIRST_SEGMENT.checked_add(segment).context("too many segments")?;
    let v4 = Ipv4Addr::new(192, 168, subnet, host);
    let v6 = Ipv6Addr::new(0xfd00, 0x192, 0x168, subnet.into(), 0, 0, 0, host.into());
    Ok((v4, v6))
}
