//! Outer headers stripped by XDP, on veths, which have native XDP if it is asked for.

mod card;
mod refused;
mod switch;
mod tagged;

use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_common::outcome::{Hook, MetricsKey, Outcome};
use flannel_tests::traffic::{UdpSession, ping, tcp_transfer};
use flannel_tests::{Node, TestResult, Topology, eventually};

use super::forged;
use crate::inspect::{self, UPLINK};
use crate::overlay::{Overlay, ping_all_pairs};

const NATIVE: &str = "--xdp=native";
const GENERIC: &str = "--xdp=generic";
const SOON: Duration = Duration::from_secs(5);
const BULK: usize = 32 << 20;
/// The name of the link's pin.
const LINK: &str = "underlay_xdp_link";

fn overlay_with(flags: &[&str]) -> Result<Overlay> {
    Overlay::start_with(Topology::segment(2), &["--dataplane=bpf"; 2], 1, |agent| {
        flags.iter().fold(agent, |agent, flag| agent.arg(*flag))
    })
}

/// Counts the packets that XDP has stripped.
fn handed_over(node: &Node) -> Result<u64> {
    inspect::packets(node, Hook::UnderlayXdp, Outcome::HandedOver)
}

fn mode(node: &Node) -> Result<Option<&'static str>> {
    Ok(inspect::xdp(node, UPLINK)?.map(|(mode, _)| mode))
}

fn all_pods_reach_each_other(flag: &str, expected: &str) -> TestResult {
    let overlay =
        Overlay::start_with(Topology::segment(3), &["--dataplane=bpf"; 3], 2, |agent| agent.arg(flag))?;
    let counted = |node: &Node| Ok((handed_over(node)?, inspect::carried(node)?.1));
    let before = overlay.nodes().iter().map(counted).collect::<Result<Vec<_>>>()?;
    ping_all_pairs(overlay.pods.iter().flatten())?;
    for (node, (stripped, received)) in overlay.nodes().iter().zip(before) {
        assert_eq!(mode(node)?, Some(expected), "{}", node.name());
        // Its 2 pods are pinged by the 4 others, and answered by them.
        assert_eq!(counted(node)?, (stripped + 16, received + 16), "{}", node.name());
    }
    Ok(())
}

#[test]
fn all_pods_reach_each_other_in_native_mode() -> TestResult {
    all_pods_reach_each_other(NATIVE, "native")
}

#[test]
fn all_pods_reach_each_other_in_generic_mode() -> TestResult {
    all_pods_reach_each_other(GENERIC, "generic")
}

/// Sends bulk data both ways. Returns how many packets XDP stripped on each node, and how many TC carried.
fn transfer(flags: &[&str]) -> Result<Vec<(u64, u64)>> {
    let overlay = overlay_with(flags)?;
    // GRO is on by default on a NIC, and off on a veth.
    overlay.nodes().iter().try_for_each(|node| node.exec("ethtool -K eth0 gro on").map(drop))?;
    let (one, other) = overlay.two_pods();
    tcp_transfer(one, other, BULK)?.ensure_few_lost()?;
    tcp_transfer(other, one, BULK)?.ensure_few_lost()?;
    overlay.nodes().iter().map(|node| Ok((handed_over(node)?, inspect::carried(node)?.1))).collect()
}

#[test]
fn bulk_data_arrives_unchanged_and_is_aggregated_after_xdp() -> TestResult {
    for cache in ["--flow-cache=true", "--flow-cache=false"] {
        for (stripped, carried) in transfer(&[NATIVE, cache])? {
            assert!(stripped as usize > BULK / 1500, "{cache}: only {stripped} packets were stripped");
            assert!(carried * 4 < stripped, "{cache}: {stripped} packets came to TC as {carried}");
        }
    }
    Ok(())
}

#[test]
fn bulk_data_arrives_unchanged_in_generic_mode() -> TestResult {
    for (stripped, _) in transfer(&[GENERIC])? {
        assert!(stripped > 0, "not even acknowledgements were stripped");
    }
    Ok(())
}

/// The frame is sent by the test: one from a NIC, unlike one from a vxlan device over veth, has no tunnel offload set.
#[test]
fn in_generic_mode_a_frame_has_its_right_length() -> TestResult {
    let overlay = overlay_with(&[GENERIC])?;
    let (node, socket) = (&overlay.nodes()[0], forged::listen(&overlay)?);
    let key = MetricsKey { outcome: Outcome::FlowNew, hook: Hook::OverlayIngress };
    let counted = || Ok::<_, anyhow::Error>(inspect::metrics(node)?.get(&key).copied().unwrap_or_default());
    let (before, stripped) = (counted()?, handed_over(node)?);
    let peer = forged::ipv4_of(&overlay, 1)?;
    forged::send(&overlay, overlay.nodes()[1].ip(), peer, b"")?;
    assert_eq!(forged::receive(&socket)?, b"");
    let now = counted()?;
    assert_eq!((now.packets - before.packets, now.bytes - before.bytes), (1, 14 + 20 + 8));
    assert_eq!(handed_over(node)?, stripped + 1);
    Ok(())
}

#[test]
fn forged_packets_do_not_reach_a_pod() -> TestResult {
    let overlay = overlay_with(&[NATIVE])?;
    let before = handed_over(&overlay.nodes()[0])?;
    forged::ensure_dropped(&overlay)?;
    assert!(handed_over(&overlay.nodes()[0])? >= before + 8, "4 forged and 4 real packets");
    Ok(())
}

#[test]
fn proven_flows_skip_the_stack() -> TestResult {
    let overlay = overlay_with(&[NATIVE])?;
    overlay.wait_plugged()?;
    let (one, other) = overlay.two_pods();
    let mut session = UdpSession::open(one, other)?;
    let before = overlay.nodes().iter().map(handed_over).collect::<Result<Vec<_>>>()?;
    (0..10).try_for_each(|_| session.echo(100))?;
    for (node, before) in overlay.nodes().iter().zip(before) {
        assert_eq!(inspect::shortcut(node)?, (9, 9), "{}", node.name());
        assert_eq!(handed_over(node)? - before, 10, "{}", node.name());
    }
    Ok(())
}

/// Restarts the first agent with another XDP mode.
fn restart_with(overlay: &mut Overlay, mode: &str) -> Result<()> {
    overlay.agents[0].restart_with(|args| {
        args.retain(|arg| !arg.starts_with("--xdp="));
        args.push(format!("--xdp={mode}"));
    })?;
    Ok(())
}

/// Waits until the pods reach each other, then checks that XDP on the first node strips the next packet.
fn ensure_packets_are_stripped(overlay: &Overlay) -> Result<()> {
    let (one, other) = overlay.two_pods();
    eventually("pods reach each other", SOON, || ping(one, other.ip()).map(drop))?;
    let before = handed_over(&overlay.nodes()[0])?;
    ping(one, other.ip())?;
    let now = handed_over(&overlay.nodes()[0])?;
    ensure!(now == before + 1, "{before} packets were stripped, then {now}");
    Ok(())
}
