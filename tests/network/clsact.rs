//! Kernels without tcx: the programs are attached as filters of the clsact qdisc.

use anyhow::{Context as _, Result, ensure};
use aya::programs::SchedClassifier;
use flannel_agent::dataplane::bpf::leases::Routes;
use flannel_agent::dataplane::bpf::{Bpf, Wanted, attach};
use flannel_agent::mac::Mac;
use flannel_agent::peer::Peer;
use flannel_common::abi;
use flannel_common::node::{NodeConfig, OverlayEnd};
use flannel_common::outcome::Hook;
use flannel_tests::traffic::{UdpSession, ping, tcp_transfer};
use flannel_tests::{AgentBuilder, Node, Pod, TestResult, Topology, eventually};

use super::flow_cache::SOON;
use crate::inspect::{self, DEVICE, UPLINK};
use crate::overlay::Overlay;

const HOOKS: [(Hook, &str, &str); 2] =
    [(Hook::UnderlayIngress, UPLINK, "ingress"), (Hook::OverlayEgress, DEVICE, "egress")];

/// Returns the configuration that an agent would write for its programs.
fn facts(node: &Node) -> Result<NodeConfig> {
    let overlay = inspect::link(node, DEVICE)?;
    Ok(NodeConfig {
        layout: abi::LAYOUT,
        vni: 1,
        flow_cache: 0,
        ttl: 64,
        port: crate::packets::PORT.to_be_bytes(),
        v4: OverlayEnd {
            overlay_ifindex: overlay.index.try_into()?,
            uplink_ifindex: inspect::link(node, UPLINK)?.index.try_into()?,
            uplink_mtu: node.mtu(),
            source_check: 1,
            local_ip: node.ip().octets(),
            vtep_mac: overlay.mac.parse::<Mac>()?.0,
            ..OverlayEnd::default()
        },
        ..NodeConfig::default()
    })
}

/// Loads the programs again, with the existing maps, and attaches them by clsact.
fn attach(node: &Node, peer: &inspect::Peer) -> Result<()> {
    let wanted = Wanted { node: facts(node)?, max_flows: abi::MAX_FLOWS as u32, xdp: false, log: false };
    let mut bpf = Bpf::load(inspect::pins(node)?, wanted)?;
    let subnet = format!("{}/24", peer.base).parse()?;
    let peer = Peer { subnet, public_ip: peer.public_ip.into(), vtep_mac: Some(peer.mac.parse()?) };
    bpf.leases.apply(&[peer], Routes::NONE)?;
    bpf.config.enable_sender_check()?;
    node.netns().run(|| {
        HOOKS.iter().try_for_each(|(hook, interface, _)| {
            let program = bpf.ebpf().program_mut(hook.program()).context("a program")?;
            let program: &mut SchedClassifier = program.try_into()?;
            // The agent loads the last one while it attaches the others.
            if program.fd().is_err() {
                program.load()?;
            }
            attach::clsact(program, *hook, interface, 1).map(drop)
        })
    })
}

/// Returns the IDs of the filters' programs, one or none for each hook.
fn filters(node: &Node) -> Result<Vec<u64>> {
    let at = |(_, interface, direction)| filters_at(node, interface, direction);
    Ok(HOOKS.map(at).into_iter().collect::<Result<Vec<_>>>()?.concat())
}

fn filters_at(node: &Node, interface: &str, direction: &str) -> Result<Vec<u64>> {
    let filters = inspect::filters(node, interface, direction)?;
    Ok(filters.into_iter().map(|(filter, _)| filter.program).collect())
}

/// Starts two nodes without BPF and adds filters by hand.
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
fn a_second_attachment_replaces_the_first_without_loss() -> TestResult {
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
fn an_agent_without_bpf_removes_the_filters() -> TestResult {
    let mut overlay = overlay_with_filters()?;
    let streams = overlay.streams()?;
    overlay.agents[0].restart()?;
    assert_eq!(filters(&overlay.nodes()[0])?, [0; 0]);
    streams.ensure_whole()?;
    Ok(())
}

/// Starts two nodes with a pod each, on kernels without tcx.
fn overlay_without_tcx() -> Result<Overlay> {
    let flags = ["--dataplane=bpf"; 2];
    let overlay = Overlay::start_with(Topology::segment(2), &flags, 1, AgentBuilder::without_tcx)?;
    for (node, pods) in overlay.nodes().iter().zip(&overlay.pods) {
        wait_for_filters(node, &pods[0], 1)?;
    }
    Ok(overlay)
}

/// Waits until a pod's port has this number of filters in each direction.
fn wait_for_filters(node: &Node, pod: &Pod, expected: usize) -> Result<()> {
    eventually("filters on the pod's port", SOON, || {
        for direction in ["ingress", "egress"] {
            let filters = filters_at(node, pod.port(), direction)?;
            ensure!(filters.len() == expected, "{direction}: {filters:?}");
        }
        Ok(())
    })
}

#[test]
fn flows_take_the_shortcut_with_filters_except_at_ports_with_a_qdisc() -> TestResult {
    let overlay = overlay_without_tcx()?;
    let node = &overlay.nodes()[0];
    assert_eq!(inspect::tcx_programs(node, UPLINK)?, [""; 0], "the agent has used tcx");
    let (pod, remote) = overlay.two_pods();
    let mut session = UdpSession::open(pod, remote)?;
    (0..10).try_for_each(|_| session.echo(100))?;
    assert_eq!(inspect::shortcut(node)?, (9, 9));
    tcp_transfer(pod, remote, 16 << 20)?;
    tcp_transfer(remote, pod, 16 << 20)?;
    node.exec(&format!("tc qdisc add dev {} root tbf rate 100mbit burst 64kb latency 50ms", pod.port()))?;
    wait_for_filters(node, pod, 0)?;
    let before = inspect::shortcut(node)?;
    (0..5).try_for_each(|_| session.echo(100))?;
    assert_eq!(inspect::shortcut(node)?, before);
    node.exec(&format!("tc qdisc del dev {} root", pod.port()))?;
    wait_for_filters(node, pod, 1)?;
    (0..2).try_for_each(|_| session.echo(100))?;
    assert_eq!(inspect::shortcut(node)?, (before.0 + 1, before.1 + 1));
    Ok(())
}

#[test]
fn filters_on_the_pods_ports_follow_the_agent() -> TestResult {
    let mut overlay = overlay_without_tcx()?;
    let streams = overlay.streams()?;
    let port = overlay.pods[0][0].port().to_owned();
    let filter = |overlay: &Overlay| filters_at(&overlay.nodes()[0], &port, "ingress");
    let first = filter(&overlay)?;
    overlay.agents[0].restart()?;
    eventually("the new agent's filter replaces the old agent's", SOON, || {
        let second = filter(&overlay)?;
        ensure!(second.len() == 1 && second != first, "{first:?}, then {second:?}");
        Ok(())
    })?;
    overlay.agents[0].restart_with(|args| args.push("--flow-cache=false".to_owned()))?;
    wait_for_filters(&overlay.nodes()[0], &overlay.pods[0][0], 0)?;
    overlay.agents[0].restart_with(|args| args.retain(|arg| arg != "--flow-cache=false"))?;
    wait_for_filters(&overlay.nodes()[0], &overlay.pods[0][0], 1)?;
    overlay.agents[0].restart_with(|args| {
        args.retain(|arg| arg != "--dataplane=bpf");
        args.push("--dataplane=netlink".to_owned());
    })?;
    wait_for_filters(&overlay.nodes()[0], &overlay.pods[0][0], 0)?;
    assert_eq!(filters(&overlay.nodes()[0])?, [0; 0]);
    streams.ensure_whole()?;
    Ok(())
}
