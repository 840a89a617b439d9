//! Traffic over IPv6 while the agent restarts, or the network gains and loses an address family.

use anyhow::ensure;
use flannel_common::abi;
use flannel_common::outcome::Hook;
use flannel_tests::traffic::{UdpSession, tcp_transfer};
use flannel_tests::{Agent, AgentBuilder, Cluster, TestResult, Topology, eventually};

use super::{BPF, DEVICE, DUAL, JOINING, V6_ONLY, start_with, two_nodes, two_pods, ways};
use crate::inspect::{self, UPLINK, attached, programs};
use crate::overlay::{Streams, ensure_whole};

#[test]
fn traffic_goes_on_without_the_agent() -> TestResult {
    let mut overlay = two_nodes()?;
    // Three for the node and two for its pod.
    let before = inspect::attached_all(&overlay.nodes()[0], 5)?;
    let (one, other) = overlay.two_pods();
    let streams = Streams::between(&one.v6()?, &other.v6()?)?;
    overlay.agents[0].kill()?;
    overlay.agents[0].restart()?;
    inspect::wait_replaced(&overlay.nodes()[0], &before)?;
    streams.ensure_whole()?;
    Ok(())
}

#[test]
fn an_agent_without_bpf_removes_the_programs() -> TestResult {
    let mut overlay = two_nodes()?;
    let (one, other) = overlay.two_pods();
    let streams = Streams::between(&one.v6()?, &other.v6()?)?;
    overlay.agents[0].restart_with(|args| {
        args.retain(|arg| arg != BPF);
        args.push("--dataplane=netlink".to_owned());
    })?;
    // The kernel removes a link some time after its pin.
    for interface in [DEVICE, UPLINK, overlay.pods[0][0].port()] {
        eventually("the programs are gone", JOINING, || {
            let programs = programs(&overlay.nodes()[0], interface)?;
            ensure!(programs.is_empty(), "{programs:?} on {interface}");
            Ok(())
        })?;
    }
    assert!(!inspect::pins(&overlay.nodes()[0])?.exist());
    ensure_whole(&streams.there.stop()?)?;
    ensure_whole(&streams.back.stop()?)?;
    Ok(())
}

/// Checks the node's programs and maps only: the new subnets cut off existing pods.
#[test]
fn a_network_can_gain_and_lose_an_address_family() -> TestResult {
    const V4_ONLY: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;
    let cluster = Cluster::segment(1)?;
    let (node, etcd) = (&cluster.nodes()[0], cluster.start_etcd()?);
    etcd.configure(DUAL)?;
    let mut agent = Agent::builder(node).etcd(&etcd).arg(BPF).start()?;
    agent.wait_ready()?;
    for (config, v4, v6) in [
        (DUAL, true, true),
        (V6_ONLY, false, true),
        (DUAL, true, true),
        (V4_ONLY, true, false),
        (DUAL, true, true),
    ] {
        etcd.configure(config)?;
        agent.restart()?;
        let room = |is_there| if is_there { abi::MAX_FLOWS as u64 } else { 1 };
        assert_eq!(inspect::map_entries(node, abi::FLOWS)?, room(v4), "{config}");
        assert_eq!(inspect::map_entries(node, abi::FLOWS6)?, room(v6), "{config}");
        let both_ways = |is_there| if is_there { 2 } else { 0 };
        let expected = [both_ways(v4), both_ways(v6), 1];
        eventually(config, JOINING, || {
            // A device that does not exist has no programs.
            // The device that the network has left is like any other interface.
            let is_own = |name: &&String| *name != Hook::SideIngress.program();
            let on =
                |interface| programs(node, interface).map_or(0, |names| names.iter().filter(is_own).count());
            let there = [inspect::DEVICE, DEVICE, UPLINK].map(on);
            ensure!(there == expected, "{there:?} programs, not {expected:?}");
            Ok(())
        })?;
        assert_eq!(attached(node)?.len(), expected.iter().sum::<usize>(), "{config}");
    }
    Ok(())
}

#[test]
fn a_kernel_without_tcx_has_filters_on_both_devices() -> TestResult {
    let overlay = start_with(Topology::segment(2), DUAL, &[BPF; 2], AgentBuilder::without_tcx)?;
    let (one, other) = two_pods(&overlay)?;
    let mut session = UdpSession::open(&one, &other)?;
    eventually("the flow takes the shortcut", JOINING, || {
        session.echo(100)?;
        let counted = ways(&overlay.nodes()[0])?;
        ensure!(counted.shortcut.0 > 0 && counted.shortcut.1 > 0, "{counted:?}");
        Ok(())
    })?;
    tcp_transfer(&one, &other, 8 << 20)?;
    tcp_transfer(&other, &one, 8 << 20)?;
    Ok(())
}
