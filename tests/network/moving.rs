//! A node's uplink changes: the node and its peers follow, and the pods keep their addresses.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_common::outcome::Hook;
use flannel_tests::traffic::{At, ping};
use flannel_tests::wait::throughout;
use flannel_tests::{TestResult, Topology, eventually};

use crate::inspect::{self, DEVICE, Link, Peer, UPLINK};
use crate::overlay::{Overlay, lines_of};

/// Time limit for all nodes to follow a change.
const FOLLOW: Duration = Duration::from_secs(5);
const WHILE: Duration = Duration::from_millis(300);
const NEW: Ipv4Addr = Ipv4Addr::new(192, 168, 64, 101);
const MOVE: [&str; 3] = [
    "addr del 192.168.64.1/24 dev eth0",
    "addr add 192.168.64.101/24 dev eth0",
    "route replace default via 192.168.64.254",
];

/// What a new uplink must not change: subnet, MAC and the keys of leases.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    base: Ipv4Addr,
    mac: String,
    leases: Vec<String>,
}

fn kept(overlay: &Overlay) -> Result<Kept> {
    let Link { mac, .. } = inspect::link(&overlay.nodes()[0], DEVICE)?;
    let leases = overlay.etcd.subnets()?.into_iter().map(|entry| entry.key).collect();
    Ok(Kept { base: overlay.base(0)?, mac, leases })
}

/// Returns the uplink and the source address of the first node's vxlan device.
fn uplink_of_device(overlay: &Overlay) -> Result<(String, String)> {
    let links = overlay.nodes()[0].netns().exec_json(&format!("ip -j -d link show dev {DEVICE}"))?;
    let data = &links[0]["linkinfo"]["info_data"];
    let text = |key: &str| data[key].as_str().map(str::to_owned).with_context(|| format!("no {key}"));
    Ok((text("link")?, text("local")?))
}

/// Waits until device, lease and peer have the first node's new address, and the node knows its peer.
fn ensure_moved(overlay: &Overlay, interface: &str, to: Ipv4Addr) -> Result<()> {
    eventually("the node and its peer follow", FOLLOW, || {
        let uplink = uplink_of_device(overlay)?;
        ensure!(uplink == (interface.to_owned(), to.to_string()), "the device uses {uplink:?}");
        let moved = Peer { public_ip: to, ..overlay.peer(0)? };
        let value = overlay.etcd.get(&moved.key())?.context("no lease")?;
        ensure!(value == moved.value(), "the lease says {value}");
        inspect::ensure_knows(&overlay.nodes()[1], &[moved])?;
        inspect::ensure_knows(&overlay.nodes()[0], &[overlay.peer(1)?])
    })
}

/// Checks that the pods reach each other in both directions, and the host the other node's pod.
fn ensure_pods_talk(overlay: &Overlay) -> Result<()> {
    let (one, other) = overlay.two_pods();
    ping(one, other.ip())?;
    ping(other, one.ip())?;
    let host = At { netns: overlay.nodes()[0].netns(), ip: overlay.base(0)?.into() };
    ping(&host, other.ip())?;
    Ok(())
}

fn follows_an_address(flag: &str) -> TestResult {
    let mut overlay = Overlay::start(Topology::segment(2), &[flag, "--dataplane=bpf"], 1)?;
    let before = kept(&overlay)?;
    let streams = overlay.streams()?;
    overlay.nodes()[0].netns().ip(&MOVE)?;
    ensure_moved(&overlay, UPLINK, NEW)?;
    ensure_pods_talk(&overlay)?;
    assert_eq!(kept(&overlay)?, before);
    overlay.agents[0].ensure_running()?;
    assert_eq!(lines_of(&overlay.agents[0].log(), "ERROR"), [""; 0]);
    for stream in [streams.there, streams.back] {
        let report = stream.stop()?;
        assert!(report.longest_gap < FOLLOW && report.received > 0, "{report:?}");
    }
    Ok(())
}

#[test]
fn a_new_address_is_followed_with_bpf() -> TestResult {
    follows_an_address("--dataplane=bpf")
}

#[test]
fn a_new_address_is_followed_without_bpf() -> TestResult {
    follows_an_address("--dataplane=netlink")
}

#[test]
fn bpf_carries_all_packets_at_a_new_address() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    overlay.nodes()[0].netns().ip(&MOVE)?;
    ensure_moved(&overlay, UPLINK, NEW)?;
    // Resolves the neighbours again before packets are counted.
    ensure_pods_talk(&overlay)?;
    let before = [0, 1].map(|node| inspect::carried(&overlay.nodes()[node]).unwrap());
    let (one, other) = overlay.two_pods();
    for _ in 0..5 {
        ping(one, other.ip())?;
    }
    for (node, (wrapped, unwrapped)) in before.into_iter().enumerate() {
        let now = inspect::carried(&overlay.nodes()[node])?;
        assert!(now.0 >= wrapped + 5 && now.1 >= unwrapped + 5, "node {node}: {before:?}, then {now:?}");
    }
    Ok(())
}

#[test]
fn the_agent_waits_while_the_uplink_has_no_address() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let (before, maps) = (kept(&overlay)?, inspect::map_id(&overlay.nodes()[0], "LEASES")?);
    overlay.nodes()[0].netns().ip(&MOVE[..1])?;
    eventually("the agent logs it", FOLLOW, || {
        let warnings = lines_of(&overlay.agents[0].log(), "WARN");
        ensure!(warnings.len() == 1 && warnings[0].contains("staying with eth0"), "{warnings:?}");
        Ok(())
    })?;
    throughout("the agent waits", WHILE, || overlay.agents[0].ensure_running())?;
    overlay.nodes()[0].netns().ip(&["addr add 192.168.64.1/24 dev eth0", MOVE[2]])?;
    eventually("pods reach each other again", FOLLOW, || ensure_pods_talk(&overlay))?;
    assert_eq!(kept(&overlay)?, before);
    assert_eq!(inspect::map_id(&overlay.nodes()[0], "LEASES")?, maps);
    Ok(())
}

#[test]
fn a_new_address_is_followed_while_etcd_is_down() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let before = kept(&overlay)?;
    overlay.etcd.kill()?;
    overlay.nodes()[0].netns().ip(&MOVE)?;
    ensure_node_follows(&overlay, NEW)?;
    overlay.etcd.restart()?;
    // Longer, because the pause between attempts to watch again grows to some seconds.
    eventually("lease and peer follow", 2 * FOLLOW, || ensure_moved(&overlay, UPLINK, NEW))?;
    ensure_pods_talk(&overlay)?;
    assert_eq!(kept(&overlay)?, before);
    Ok(())
}

/// Waits until the first node's device uses this address, and the node has its entries for its peer.
fn ensure_node_follows(overlay: &Overlay, to: Ipv4Addr) -> Result<()> {
    eventually("the node's device and entries follow", FOLLOW, || {
        let uplink = uplink_of_device(overlay)?;
        ensure!(uplink == (UPLINK.to_owned(), to.to_string()), "the device uses {uplink:?}");
        inspect::ensure_knows(&overlay.nodes()[0], &[overlay.peer(1)?])
    })
}

#[test]
fn a_node_that_waits_for_etcd_repairs_its_routes_and_follows_another_new_address() -> TestResult {
    const NEWER: Ipv4Addr = Ipv4Addr::new(192, 168, 64, 102);
    let mut overlay = Overlay::bpf(2)?;
    let (before, peer) = (kept(&overlay)?, overlay.peer(1)?);
    overlay.etcd.kill()?;
    let node = overlay.nodes()[0].netns();
    node.ip(&MOVE)?;
    ensure_node_follows(&overlay, NEW)?;
    node.ip(&[&format!("route del {}/24", peer.base)])?;
    ensure_node_follows(&overlay, NEW)?;
    node.ip(&["addr del 192.168.64.101/24 dev eth0", "addr add 192.168.64.102/24 dev eth0", MOVE[2]])?;
    ensure_node_follows(&overlay, NEWER)?;
    overlay.etcd.restart()?;
    eventually("lease and peer follow", 2 * FOLLOW, || ensure_moved(&overlay, UPLINK, NEWER))?;
    ensure_pods_talk(&overlay)?;
    assert_eq!(kept(&overlay)?, before);
    Ok(())
}

#[test]
fn a_new_mtu_is_followed() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    let before = kept(&overlay)?;
    overlay.nodes()[0].netns().ip(&["link set eth0 mtu 1400"])?;
    eventually("device and file follow", FOLLOW, || {
        let links = overlay.nodes()[0].netns().exec_json(&format!("ip -j link show dev {DEVICE}"))?;
        let (device, file) = (links[0]["mtu"].as_u64(), overlay.nodes()[0].subnet_env()?.mtu);
        ensure!((device, file) == (Some(1350), 1350), "the device has {device:?}, the file {file}");
        Ok(())
    })?;
    ensure_moved(&overlay, UPLINK, overlay.nodes()[0].ip())?;
    ensure_pods_talk(&overlay)?;
    assert_eq!(kept(&overlay)?, before);
    Ok(())
}

#[test]
fn a_new_uplink_interface_is_followed() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    let before = kept(&overlay)?;
    let node = overlay.nodes()[0].netns();
    let fabric = overlay.cluster.fabric().context("a segment has a switch")?;
    fabric.ip(&[format!("link add more0 type veth peer name eth1 netns {}", node.name())])?;
    fabric.ip(&["link set more0 master seg0 up"])?;
    node.ip(&["link set eth1 up", "addr flush dev eth0", "addr add 192.168.64.101/24 dev eth1", MOVE[2]])?;
    ensure_moved(&overlay, "eth1", NEW)?;
    ensure_pods_talk(&overlay)?;
    assert_eq!(kept(&overlay)?, before);
    eventually("senders are checked at the old uplink", FOLLOW, || {
        let old = inspect::programs(&overlay.nodes()[0], UPLINK)?;
        ensure!(old == [Hook::SideIngress.program()], "programs on the old uplink: {old:?}");
        Ok(())
    })?;
    assert_eq!(inspect::programs(&overlay.nodes()[0], "eth1")?.len(), 1);
    Ok(())
}
