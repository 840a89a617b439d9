//! Kernels without tcx: the programs as filters of the clsact qdisc.

use anyhow::{Context as _, Result};
use aya::programs::SchedClassifier;
use flannel_agent::dataplane::bpf::{Bpf, attach};
use flannel_agent::dataplane::desired::Peer;
use flannel_agent::mac::Mac;
use flannel_common::abi;
use flannel_common::node::Node as Facts;
use flannel_common::outcome::Hook;
use flannel_tests::traffic::{ping, tcp_transfer};
use flannel_tests::{Node, TestResult, Topology};

use crate::inspect::{self, DEVICE, UPLINK};
use crate::overlay::Overlay;

const HOOKS: [(Hook, &str, &str); 2] =
    [(Hook::UnderlayIngress, UPLINK, "ingress"), (Hook::OverlayEgress, DEVICE, "egress")];

/// What an agent would tell its programs.
fn facts(node: &Node) -> Result<Facts> {
    let overlay = inspect::link(node, DEVICE)?;
    Ok(Facts {
        layout: abi::LAYOUT,
        overlay_ifindex: overlay.index.try_into()?,
        uplink_ifindex: inspect::link(node, UPLINK)?.index.try_into()?,
        vni: 1,
        uplink_mtu: node.mtu(),
        local_ip: node.ip().octets(),
        vtep_mac: overlay.mac.parse::<Mac>()?.0,
        port: crate::packets::PORT.to_be_bytes(),
        flow_cache: 0,
        source_check: 1,
    })
}

/// Loads the programs anew, on maps that are there, and attaches them by clsact.
fn attach(node: &Node, peer: &inspect::Peer) -> Result<()> {
    let mut bpf = Bpf::load(inspect::pins(node)?, false)?;
    bpf.configure(&facts(node)?)?;
    let subnet = format!("{}/24", peer.base).parse()?;
    bpf.apply(&[Peer { subnet, public_ip: peer.public_ip.into(), vtep_mac: Some(peer.mac.parse()?) }])?;
    node.netns().run(|| {
        HOOKS.iter().try_for_each(|(hook, interface, _)| {
            let program = bpf.ebpf().program_mut(hook.program()).context("a program")?;
            let program: &mut SchedClassifier = program.try_into()?;
            attach::clsact(program, *hook, interface).map(drop)
        })
    })
}

/// The numbers of the programs that our filters run, one or none at each hook.
fn filters(node: &Node) -> Result<Vec<u64>> {
    let mut programs = Vec::new();
    for (_, interface, direction) in HOOKS {
        let shown = node.netns().exec_json(&format!("tc -j filter show dev {interface} {direction}"))?;
        let filters = shown.as_array().cloned().unwrap_or_default();
        programs.extend(filters.iter().filter_map(|filter| filter["options"]["prog"]["id"].as_u64()));
    }
    Ok(programs)
}

/// Two nodes on the floor, with filters on it.
fn overlay_with_filters() -> Result<Overlay> {
    let overlay = Overlay::start(Topology::segment(2), &["--dataplane=netlink"; 2], 1)?;
    attach(&overlay.nodes()[0], &overlay.peer(1)?)?;
    attach(&overlay.nodes()[1], &overlay.peer(0)?)?;
    Ok(overlay)
}

#[test]
fn filters_carry_traffic() -> TestResult {
    let overlay = overlay_with_filters()?;
    let (one, other) = overlay.two_pods();
    let before = inspect::carried(&overlay.nodes()[0])?;
    for _ in 0..10 {
        ping(one, other.ip())?;
    }
    assert_eq!(inspect::carried(&overlay.nodes()[0])?, (before.0 + 10, before.1 + 10));
    tcp_transfer(one, other, 16 << 20)?;
    tcp_transfer(other, one, 16 << 20)?;
    Ok(())
}

#[test]
fn a_second_attachment_replaces_the_first_without_a_gap() -> TestResult {
    let overlay = overlay_with_filters()?;
    let node = &overlay.nodes()[0];
    let first = filters(node)?;
    assert_eq!(first.len(), HOOKS.len(), "one filter at each hook: {first:?}");
    let streams = overlay.streams()?;
    attach(node, &overlay.peer(1)?)?;
    let second = filters(node)?;
    assert_eq!(second.len(), HOOKS.len(), "one filter at each hook: {second:?}");
    assert!(first.iter().all(|program| !second.contains(program)), "{first:?} then {second:?}");
    streams.ensure_whole()?;
    Ok(())
}

#[test]
fn an_agent_without_bpf_takes_the_filters_away() -> TestResult {
    let mut overlay = overlay_with_filters()?;
    let streams = overlay.streams()?;
    overlay.agents[0].restart()?;
    assert_eq!(filters(&overlay.nodes()[0])?, [0; 0]);
    streams.ensure_whole()?;
    Ok(())
}
