//! Changes while flows over IPv6 skip the host stack: of rules, and of the route to a peer.

use std::time::{Duration, Instant};

use anyhow::ensure;
use flannel_common::flow::{PROOF_NS, TRANSIT_NS};
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::traffic::UdpSession;
use flannel_tests::{Node, TestResult, Topology, eventually};

use super::{BPF, DUAL, start, two_nodes, two_pods, ways};
use crate::inspect::{self, UPLINK};

/// Time limit for a rule to end a flow, with 4 s for a busy machine.
const BOUND: Duration = Duration::from_nanos(PROOF_NS + TRANSIT_NS + 4_000_000_000);
/// Much shorter than a proof holds.
const AT_ONCE: Duration = Duration::from_secs(4);

#[test]
fn a_new_rule_ends_a_proven_flow_and_its_removal_brings_it_back() -> TestResult {
    let overlay = two_nodes()?;
    let node = &overlay.nodes()[0];
    let (one, other) = two_pods(&overlay)?;
    let mut session = UdpSession::open(&one, &other)?;
    (0..3).try_for_each(|_| session.echo(100))?;
    assert_eq!(ways(node)?.shortcut, (2, 2));
    node.exec("ip6tables -I FORWARD -p udp -j DROP")?;
    let start = Instant::now();
    assert!(UdpSession::open(&one, &other)?.echo(100).is_err(), "a new flow ignores the rule");
    eventually("the rule ends the flow", BOUND, || {
        ensure!(session.request(100).is_err(), "it goes on after {:?}", start.elapsed());
        Ok(())
    })?;
    assert!(start.elapsed() < BOUND, "it took {:?}", start.elapsed());
    let stopped = ways(node)?.shortcut;
    (0..2).for_each(|_| assert!(session.request(100).is_err(), "the flow is back"));
    assert_eq!(ways(node)?.shortcut, stopped);
    node.exec("ip6tables -D FORWARD -p udp -j DROP")?;
    eventually("the flow is back, past the stack", AT_ONCE, || {
        session.echo(100)?;
        ensure!(ways(node)?.shortcut.0 > stopped.0, "not yet");
        Ok(())
    })?;
    Ok(())
}

/// Waits until the first node's route to the second node's pods leads through this device.
fn wait_for_route(node: &Node, subnet: std::net::Ipv6Addr, device: &str) -> anyhow::Result<()> {
    eventually("the route follows", AT_ONCE, || {
        let route = node.exec(&format!("ip -6 route show {subnet}/64"))?;
        ensure!(route.contains(&format!("dev {device} ")), "{route}");
        Ok(())
    })
}

#[test]
fn a_flow_survives_changes_between_tunnel_and_direct_route() -> TestResult {
    const PEER: &str = "fd00:192:168:40::2/128 via fd00:192:168:40::fe";
    let config = DUAL.replace(r#""vxlan""#, r#""vxlan","DirectRouting":true"#);
    let overlay = start(Topology::segment(2), &config, &[BPF; 2])?;
    let (node, subnet) = (&overlay.nodes()[0], super::base(&overlay.nodes()[1])?);
    let (one, other) = two_pods(&overlay)?;
    wait_for_route(node, subnet, UPLINK)?;
    let mut session = UdpSession::open(&one, &other)?;
    (0..3).try_for_each(|_| session.echo(100))?;
    assert_eq!(ways(node)?.shortcut.0, 0, "a flow to a peer on the link has a tunnel");
    assert!(inspect::packets(node, Hook::PodEgress, Outcome::OnLink)? >= 2);
    node.netns().ip(&[format!("route add {PEER}")])?;
    wait_for_route(node, subnet, super::DEVICE)?;
    eventually("the flow takes the shortcut into the tunnel", AT_ONCE, || {
        session.request(100)?;
        ensure!(ways(node)?.shortcut.0 >= 2, "not yet");
        Ok(())
    })?;
    node.netns().ip(&[format!("route del {PEER}")])?;
    wait_for_route(node, subnet, UPLINK)?;
    // The vxlan device has no entry for the peer any more.
    eventually("the flow goes on", AT_ONCE, || session.request(100))?;
    (0..20).try_for_each(|_| session.request(100))?;
    Ok(())
}
