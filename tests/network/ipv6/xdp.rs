//! IPv6 packets whose outer headers XDP strips.

use std::net::Ipv6Addr;

use anyhow::{Result, ensure};
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::traffic::{UdpSession, tcp_transfer};
use flannel_tests::{Capture, Node, TestResult, Topology, eventually};

use super::super::flow_cache::SOON;
use super::{
    BPF, DUAL, Overlay, PathCounts, V6_ONLY, all_reach_all, base, checksum, forged, start, two_pods, ways,
};
use crate::inspect;
use crate::overlay::with_xdp;

fn overlay(network: &str, xdp: &str) -> Result<Overlay> {
    start(Topology::segment(2), &with_xdp(network, xdp), &[BPF; 2])
}

/// Counts the packets that XDP has stripped.
fn stripped(node: &Node) -> Result<u64> {
    inspect::packets(node, Hook::UnderlayXdp, Outcome::HandedOver)
}

#[test]
fn pods_reach_each_other_and_xdp_strips_every_packet() -> TestResult {
    for xdp in ["native", "generic"] {
        let overlay = overlay(V6_ONLY, xdp)?;
        let counted = |node| Ok((stripped(node)?, ways(node)?));
        let before = overlay.nodes().iter().map(counted).collect::<Result<Vec<_>>>()?;
        all_reach_all(&overlay)?;
        for (node, (stripped, then)) in overlay.nodes().iter().zip(before) {
            // Its pod pings the other, and answers it.
            let now = PathCounts { stack: (then.stack.0 + 2, then.stack.1 + 2), ..then };
            assert_eq!(counted(node)?, (stripped + 2, now), "{xdp}: {}", node.name());
        }
    }
    Ok(())
}

#[test]
fn proven_flows_skip_the_stack() -> TestResult {
    let overlay = overlay(V6_ONLY, "native")?;
    let (one, other) = two_pods(&overlay)?;
    let before = overlay.nodes().iter().map(stripped).collect::<Result<Vec<_>>>()?;
    let mut session = UdpSession::open(&one, &other)?;
    (0..10).try_for_each(|_| session.echo(100))?;
    for (node, before) in overlay.nodes().iter().zip(before) {
        assert_eq!(ways(node)?.shortcut, (9, 9), "{}", node.name());
        assert_eq!(stripped(node)? - before, 10, "{}", node.name());
    }
    Ok(())
}

#[test]
fn bulk_data_arrives_unchanged_and_is_aggregated_after_xdp() -> TestResult {
    const BULK: usize = 16 << 20;
    let overlay = overlay(V6_ONLY, "native")?;
    // GRO is on by default on a NIC, and off on a veth.
    overlay.nodes().iter().try_for_each(|node| node.exec("ethtool -K eth0 gro on").map(drop))?;
    let (one, other) = two_pods(&overlay)?;
    tcp_transfer(&one, &other, BULK)?;
    tcp_transfer(&other, &one, BULK)?;
    for node in overlay.nodes() {
        let (stripped, PathCounts { shortcut, stack }) = (stripped(node)?, ways(node)?);
        assert!(stripped as usize > BULK / 1500, "only {stripped} packets were stripped");
        let carried = shortcut.1 + stack.1;
        assert!(carried * 4 < stripped, "{stripped} packets came to TC as {carried}");
    }
    Ok(())
}

#[test]
fn forged_packets_do_not_reach_a_pod() -> TestResult {
    let overlay = overlay(DUAL, "native")?;
    let before = stripped(&overlay.nodes()[0])?;
    forged::ensure_dropped(&overlay)?;
    // Of the forged packets four came over IPv6 and were stripped, two over IPv4 and were not. Six were valid.
    assert_eq!(stripped(&overlay.nodes()[0])? - before, 10);
    Ok(())
}

#[test]
fn packets_with_a_wrong_inner_checksum_do_not_arrive() -> TestResult {
    let overlay = overlay(V6_ONLY, "native")?;
    checksum::ensure_packets_with_a_wrong_inner_checksum_do_not_arrive(&overlay)?;
    assert!(stripped(&overlay.nodes()[0])? >= 6, "three right and three broken packets");
    Ok(())
}

#[test]
fn traffic_passes_whichever_offloads_are_on() -> TestResult {
    for xdp in ["native", "generic"] {
        let overlay = overlay(V6_ONLY, xdp)?;
        checksum::ensure_traffic_passes_whichever_offloads_are_on(&overlay)?;
        assert!(stripped(&overlay.nodes()[0])? > 0, "{xdp}: nothing was stripped");
    }
    Ok(())
}

/// Packets between veths have an outer checksum that is not yet computed. A device behind the pod must not compute it.
#[test]
fn a_pod_can_forward_packets_that_it_receives() -> TestResult {
    const PACKETS: u64 = 5;
    let overlay = overlay(V6_ONLY, "native")?;
    let (pod, node) = (&overlay.pods[0][0], &overlay.nodes()[0]);
    let behind = Ipv6Addr::from_bits(base(node)?.to_bits() + 0x99);
    node.netns().ip(&[format!("route add {behind} via {} dev cni0", pod.ip())])?;
    pod.netns().set(&[("net.ipv6.conf.all.forwarding", "1")])?;
    let route = format!("route add {behind} dev sink");
    let neighbour = format!("neigh add {behind} lladdr 02:00:00:00:00:99 dev sink");
    pod.netns().ip(&["link add sink type veth peer name end", "link set sink up", "link set end up"])?;
    pod.netns().ip(&[route, neighbour])?;
    pod.exec("ethtool -K sink tx off")?;
    let capture = Capture::start(pod.netns(), "sink")?;
    for number in 1..=PACKETS {
        let (from, source) = (overlay.nodes()[1].ip6().into(), forged::pod_ip(&overlay, 1)?);
        let payload = format!("packet {number}").into_bytes();
        forged::send_to(&overlay, behind, from, source, &payload)?;
        eventually("it has been passed on", SOON, || {
            let passed = capture.so_far().iter().filter(|frame| frame.bytes.ends_with(&payload)).count();
            ensure!(passed == 1, "not yet");
            Ok(())
        })?;
    }
    let PathCounts { shortcut, .. } = ways(node)?;
    assert_eq!(shortcut.1, PACKETS - 1);
    Ok(())
}
