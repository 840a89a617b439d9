//! Changes while flows skip the host stack: of rules, pods, ports and flags.

use std::io::Read as _;
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use flannel_common::flow::{PROOF_NS, TRANSIT_NS};
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::traffic::{TcpSession, UdpSession, ping};
use flannel_tests::wait::{scaled, throughout};
use flannel_tests::{Node, Pod, TestResult, eventually};

use super::flow_cache::{SOON, overlay_of};
use crate::inspect;
use crate::overlay::lines_of;

/// Time limit for a rule to end a flow, with 4 s for a busy machine.
const BOUND: Duration = Duration::from_nanos(PROOF_NS + TRANSIT_NS + 4_000_000_000);
/// Much shorter than a proof holds.
const AT_ONCE: Duration = Duration::from_secs(3);
/// The connection tracker's setting that flows need.
const LIBERAL: &str = "net.netfilter.nf_conntrack_tcp_be_liberal";
/// Longer than a proof holds.
const LONGER: Duration = Duration::from_nanos(PROOF_NS + 2_500_000_000);

#[test]
fn a_new_rule_ends_a_proven_flow_and_its_removal_brings_it_back() -> TestResult {
    let overlay = overlay_of(1)?;
    let node = &overlay.nodes()[0];
    let (one, other) = overlay.two_pods();
    let mut session = UdpSession::open(one, other)?;
    (0..3).try_for_each(|_| session.echo(100))?;
    assert_eq!(inspect::shortcut(node)?, (2, 2));
    node.exec("iptables -I FORWARD -j DROP")?;
    let start = Instant::now();
    assert!(UdpSession::open(one, other)?.echo(100).is_err(), "a new flow ignores the rule");
    eventually("the rule ends the flow", BOUND, || {
        ensure!(session.request(100).is_err(), "it goes on after {:?}", start.elapsed());
        Ok(())
    })?;
    assert!(start.elapsed() < BOUND, "it took {:?}", start.elapsed());
    let stopped = inspect::shortcut(node)?;
    (0..2).for_each(|_| assert!(session.request(100).is_err(), "the flow is back"));
    assert_eq!(inspect::shortcut(node)?, stopped);
    node.exec("iptables -D FORWARD -j DROP")?;
    eventually("the flow is back", SOON, || session.echo(100))?;
    eventually("and takes the shortcut", SOON, || {
        session.echo(100)?;
        ensure!(inspect::shortcut(node)?.0 > stopped.0, "not yet");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn conntrack_does_not_take_a_long_connection_for_an_invalid_one() -> TestResult {
    let overlay = overlay_of(1)?;
    let (one, other) = overlay.two_pods();
    for node in overlay.nodes() {
        node.exec("iptables -I FORWARD -m conntrack --ctstate INVALID -j DROP")?;
    }
    let mut session = TcpSession::open(one, other)?;
    let (start, mut resets, mut longest) = (Instant::now(), 0, Duration::ZERO);
    throughout("the connection goes on", LONGER, || {
        if start.elapsed() >= AT_ONCE * resets {
            resets += 1;
            overlay.nodes().iter().try_for_each(set_back)?;
        }
        let start = Instant::now();
        // So much data that conntrack, which sees few packets, finds the next ones outside any TCP window.
        session.exchange(16 << 10)?;
        longest = longest.max(start.elapsed());
        Ok(())
    })?;
    assert!(longest < scaled(AT_ONCE), "it stood still for {longest:?}");
    for node in overlay.nodes() {
        let stale = inspect::packets(node, Hook::PodEgress, Outcome::FlowStale)?;
        let shortcut = inspect::shortcut(node)?;
        assert!(stale > 0, "{}: no packet was sent through the stack again", node.name());
        assert!(shortcut.0 > 10 * stale && shortcut.1 > 0, "{}: {shortcut:?}, {stale}", node.name());
    }
    session.client.shutdown(Shutdown::Write)?;
    assert_eq!(session.server.read(&mut [0])?, 0, "the end of the connection");
    Ok(())
}

/// Sets the connection tracker back, as `sysctl --system` does where a file says so.
fn set_back(node: &Node) -> Result<()> {
    node.exec(&format!("sysctl -qw {LIBERAL}=0"))?;
    Ok(())
}

/// Sends a datagram. Fails if it does not arrive within a fraction of a second.
pub(super) fn arrives(from: &UdpSocket, to: &UdpSocket) -> Result<()> {
    from.send_to(b"datagram", to.local_addr()?)?;
    ensure!(to.recv_from(&mut [0; 16])? == (8, from.local_addr()?), "another one arrived");
    Ok(())
}

pub(super) fn receiver(pod: &Pod, at: SocketAddr) -> Result<UdpSocket> {
    let socket = pod.netns().udp_bind(at.ip(), at.port())?;
    socket.set_read_timeout(Some(scaled(Duration::from_millis(100))))?;
    Ok(socket)
}

/// Replaces the second node's pod while a flow sends to it, and waits until the new pod gets the packets.
fn replace_receiver(end_agent: bool) -> TestResult {
    let mut overlay = overlay_of(1)?;
    let sender = overlay.pods[0][0].netns().udp_bind(overlay.pods[0][0].ip(), 0)?;
    let old = overlay.pods[1].remove(0);
    let first = receiver(&old, SocketAddr::new(old.ip(), 7000))?;
    eventually("a first datagram", SOON, || arrives(&sender, &first))?;
    (0..3).try_for_each(|_| arrives(&sender, &first))?;
    let node = &overlay.cluster.nodes()[1];
    let delivered = inspect::shortcut(node)?.1;
    assert!(delivered >= 3, "{delivered} datagrams took the shortcut to the old pod");
    if end_agent {
        overlay.agents[1].kill()?;
    }
    let new = node.replace_pod(old)?;
    // Announces the pod, as a CNI plugin does, so that the host knows the new MAC.
    ping(&new, overlay.pods[0][0].ip())?;
    let second = receiver(&new, first.local_addr()?)?;
    eventually("a datagram for the new pod", AT_ONCE, || arrives(&sender, &second))?;
    if end_agent {
        overlay.agents[1].restart()?;
    }
    inspect::wait_plugged(node, &new)?;
    eventually("it takes the shortcut, too", SOON, || {
        arrives(&sender, &second)?;
        ensure!(inspect::shortcut(node)?.1 > delivered, "not yet");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn a_new_pod_gets_the_packets_of_one_that_had_its_address() -> TestResult {
    replace_receiver(false)
}

#[test]
fn a_new_pod_gets_the_packets_of_one_that_had_its_address_without_an_agent() -> TestResult {
    replace_receiver(true)
}

/// Waits until a pod's port has no program and no flow leads to it.
fn wait_unplugged(node: &Node, pod: &Pod) -> Result<()> {
    let index = inspect::link(node, pod.port())?.index;
    eventually("the pod's port has no programs", SOON, || {
        let programs = inspect::programs(node, pod.port())?;
        ensure!(programs.is_empty(), "there are {programs:?}");
        let flows = inspect::flows(node)?;
        ensure!(flows.values().all(|flow| u64::from(flow.port.ifindex) != index), "{flows:#?}");
        Ok(())
    })
}

#[test]
fn a_port_has_no_programs_while_it_has_its_own_qdisc() -> TestResult {
    let overlay = overlay_of(1)?;
    let node = &overlay.nodes()[0];
    let (pod, remote) = overlay.two_pods();
    let mut session = UdpSession::open(pod, remote)?;
    (0..2).try_for_each(|_| session.echo(100))?;
    let mut before = (1, 1);
    for qdisc in ["root tbf rate 100mbit burst 64kb latency 50ms", "ingress"] {
        assert_eq!(inspect::shortcut(node)?, before);
        node.exec(&format!("tc qdisc add dev {} {qdisc}", pod.port()))?;
        wait_unplugged(node, pod)?;
        (0..5).try_for_each(|_| session.echo(100))?;
        assert_eq!(inspect::shortcut(node)?, before, "packets past {qdisc}");
        let kind = qdisc.split(' ').next().unwrap_or_default();
        node.exec(&format!("tc qdisc del dev {} {kind}", pod.port()))?;
        inspect::wait_plugged(node, pod)?;
        session.echo(100)?;
        session.echo(100)?;
        before = (before.0 + 1, before.1 + 1);
    }
    assert_eq!(inspect::shortcut(node)?, before);
    Ok(())
}

#[test]
fn the_flow_cache_can_be_switched_under_traffic() -> TestResult {
    let mut overlay = overlay_of(1)?;
    let streams = overlay.streams()?;
    overlay.agents[0].restart_with(|args| args.push("--flow-cache=false".to_owned()))?;
    wait_unplugged(&overlay.nodes()[0], &overlay.pods[0][0])?;
    let off = inspect::shortcut(&overlay.nodes()[0])?;
    assert!(off.0 > 0 && off.1 > 0, "nothing took the shortcut before: {off:?}");
    let stack = inspect::through_stack(&overlay.nodes()[0])?;
    eventually("all goes through the stack", SOON, || {
        let now = inspect::through_stack(&overlay.nodes()[0])?;
        ensure!(now.0 > stack.0 + 50 && now.1 > stack.1 + 50, "{stack:?}, then {now:?}");
        Ok(())
    })?;
    assert_eq!(inspect::shortcut(&overlay.nodes()[0])?, off);
    overlay.agents[0].restart_with(|args| args.retain(|arg| arg != "--flow-cache=false"))?;
    inspect::wait_plugged(&overlay.nodes()[0], &overlay.pods[0][0])?;
    eventually("the shortcut is open again", SOON, || {
        let now = inspect::shortcut(&overlay.nodes()[0])?;
        ensure!(now.0 > off.0 && now.1 > off.1, "{off:?}, then {now:?}");
        Ok(())
    })?;
    streams.ensure_whole()?;
    assert_eq!(lines_of(&overlay.agents[0].log(), "ERROR"), [""; 0]);
    Ok(())
}
