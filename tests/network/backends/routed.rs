//! host-gw with programs: flows between pods skip the host stack without a tunnel, and routes alone carry all else.

use anyhow::{Context as _, Result, ensure};
use flannel_common::outcome::Verdict;
use flannel_tests::traffic::{UdpSession, tcp_transfer};
use flannel_tests::wait::patiently;
use flannel_tests::{Capture, Cluster, TestResult, Topology, eventually};
use serde_json::Value;

use super::direct_routing::at;
use super::{Bed, FOLLOW, lines};
use crate::inspect::{self, UPLINK};
use crate::network::status::run;
use crate::overlay::{lines_of, past_stack, refusal};

const DUAL: &str = r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.63.0","EnableIPv6":true,"IPv6Network":"fd44::/48",
    "Backend":{"Type":"host-gw"}}"#;
const MORE: u64 = 50;

/// Starts nodes whose pods' ports have the programs.
fn bed() -> Result<Bed> {
    let bed = Bed::start(Topology::segment(2), DUAL)?;
    bed.ensure_all_reach_all()?;
    for (node, pod) in bed.nodes().iter().zip(&bed.pods) {
        inspect::wait_plugged(node, pod)?;
    }
    Ok(bed)
}

/// Sends so many requests with answers. Fails unless each packet passes the first node's host stack by.
fn ensure_past_stack(bed: &Bed, session: &mut UdpSession) -> Result<()> {
    let before = past_stack(&bed.nodes()[0])?;
    (0..MORE).try_for_each(|size| session.echo(size as usize * 28))?;
    let after = past_stack(&bed.nodes()[0])?;
    ensure!(after == before.map(|count| count + MORE), "{after:?} after {before:?}");
    Ok(())
}

/// Waits until `status` says so of why there are no programs. Only the agent knows, and a busy one does not answer at once.
fn wait_without_bpf(bed: &Bed, fits: impl Fn(&Value) -> bool) -> Result<()> {
    patiently("status says why there are no programs", FOLLOW, || {
        let status: Value = serde_json::from_slice(&run(&bed.nodes()[0], &["status", "--json"])?.stdout)?;
        let why = &status["networks"][0]["without_bpf"];
        ensure!(fits(why), "{why}");
        Ok(())
    })
}

#[test]
fn flows_skip_the_stack_in_both_families_and_a_restart_loses_none() -> TestResult {
    let mut bed = bed()?;
    wait_without_bpf(&bed, Value::is_null)?;
    assert_eq!(lines(&bed.nodes()[0], "ip -br link show type vxlan")?.len(), 0);
    for family in 0..2 {
        let [one, other] = [0, 1].map(|pod| at(&bed.pods[pod], family));
        let mut session = UdpSession::open(&one, &other)?;
        session.echo(100)?;
        let capture = Capture::start(bed.nodes()[0].netns(), UPLINK)?;
        ensure_past_stack(&bed, &mut session)?;
        let capture = capture.stop()?;
        assert!(
            capture.count("udp && !vxlan")? >= 2 * MORE as usize,
            "{}: the capture shows nothing",
            one.ip
        );
        // One router on the way of both directions, on each node.
        let hops = if family == 0 { "ip.ttl == 63" } else { "ipv6.hlim == 63" };
        assert!(capture.count(&format!("udp && {hops}"))? >= 2 * MORE as usize, "{}: {hops}", one.ip);
        let before = past_stack(&bed.nodes()[0])?;
        tcp_transfer(&one, &other, 8 << 20)?;
        tcp_transfer(&other, &one, 8 << 20)?;
        let carried = past_stack(&bed.nodes()[0])?;
        assert!(carried[0] > before[0] + 50 && carried[1] > before[1] + 50, "{}: {carried:?}", one.ip);
        let listed = run(&bed.nodes()[0], &["flows"])?.stdout;
        let listed = String::from_utf8(listed)?;
        let ip = one.ip.to_string();
        assert!(listed.lines().any(|line| line.contains(&ip) && line.contains("on-link")), "{listed}");
    }
    let [one, other] = [0, 1].map(|pod| at(&bed.pods[pod], 0));
    let mut session = UdpSession::open(&one, &other)?;
    session.echo(100)?;
    bed.agents[0].term()?;
    ensure_past_stack(&bed, &mut session)?;
    bed.agents[0].restart()?;
    inspect::wait_plugged(&bed.nodes()[0], &bed.pods[0])?;
    // The packet that proves the flow anew.
    session.echo(100)?;
    ensure_past_stack(&bed, &mut session)?;
    let drops = inspect::metrics(&bed.nodes()[0])?;
    assert!(drops.keys().all(|key| key.outcome.verdict() != Verdict::Dropped), "{drops:?}");
    for agent in &bed.agents {
        assert_eq!(lines_of(&agent.log(), "ERROR"), [""; 0]);
    }
    Ok(())
}

#[test]
fn a_flow_follows_its_next_hop_to_another_mac() -> TestResult {
    let bed = bed()?;
    let [one, other] = [0, 1].map(|pod| at(&bed.pods[pod], 0));
    let mut session = UdpSession::open(&one, &other)?;
    session.echo(100)?;
    ensure_past_stack(&bed, &mut session)?;
    let peer = &bed.nodes()[1];
    peer.netns().ip(&["link set eth0 address 02:00:00:00:00:77"])?;
    eventually("the flow goes on", FOLLOW, || {
        // Its question for the other node's MAC tells its own.
        peer.exec("ip neigh flush dev eth0")?;
        peer.exec("ping -c 1 -W 1 192.168.64.1")?;
        session.request(100).context("no request arrives")
    })?;
    eventually("it skips the stack again", FOLLOW, || ensure_past_stack(&bed, &mut session))?;
    let neighbour = bed.nodes()[0].exec("ip neigh show 192.168.64.2")?;
    assert!(neighbour.contains("02:00:00:00:00:77"), "{neighbour}");
    Ok(())
}

#[test]
fn the_kernel_alone_carries_packets_where_that_is_chosen() -> TestResult {
    let mut bed = bed()?;
    for (flag, why) in [
        ("--dataplane=netlink", "the kernel's dataplane was chosen"),
        ("--flow-cache=false", "no flow is to skip the host stack"),
    ] {
        bed.agents[0].restart_with(|flags| flags.push(flag.to_owned()))?;
        bed.ensure_all_reach_all()?;
        assert_eq!(inspect::programs(&bed.nodes()[0], UPLINK)?, [""; 0], "{flag}");
        assert_eq!(inspect::programs(&bed.nodes()[0], bed.pods[0].port())?, [""; 0], "{flag}");
        wait_without_bpf(&bed, |said| said.as_str().is_some_and(|said| said.starts_with(why)))?;
        bed.agents[0].restart_with(|flags| flags.retain(|known| known != flag))?;
        inspect::wait_plugged(&bed.nodes()[0], &bed.pods[0])?;
    }
    bed.agents[0].clean_up()?;
    assert_eq!(inspect::programs(&bed.nodes()[0], UPLINK)?, [""; 0], "after the clean-up");
    Ok(())
}

#[test]
fn bpf_is_refused_where_there_is_nothing_for_it() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let etcd = cluster.start_etcd()?;
    for (backend, flags, expected) in [
        ("alloc", &["--dataplane=bpf"][..], "which the backend alloc does not have"),
        ("host-gw", &["--dataplane=bpf", "--flow-cache=false"], "but no flow is to skip the host stack"),
    ] {
        etcd.configure(&DUAL.replace("host-gw", backend))?;
        let error = refusal(&cluster.nodes()[0], |agent| {
            flags.iter().fold(agent.etcd(&etcd), |agent, flag| agent.arg(*flag))
        })?;
        assert!(error.contains("--dataplane bpf was asked for") && error.contains(expected), "{error}");
    }
    Ok(())
}
