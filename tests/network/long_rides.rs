//! Connections that skip the host stack for long: the connection tracker has seen next to nothing of them, and rules drop what
//! it takes for invalid or new.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::linux::net::TcpStreamExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flannel_agent::netlink::conntrack::{BE_LIBERAL, Entry, MAXACK_SET, Tracker, Tuple, UNACKNOWLEDGED};
use flannel_common::flow::PROOF_NS;
use flannel_tests::traffic::{TcpSession, UdpSession, pour, reset};
use flannel_tests::wait::{scaled, throughout};
use flannel_tests::{AgentBuilder, Cluster, Node, TestResult, Topology, eventually};

use super::capabilities::FULL;
use super::flow_cache::{SOON, overlay_of};
use crate::inspect;
use crate::overlay::{NETWORK, Overlay};

/// More than half of TCP's sequence numbers, and less than all.
const FAR: usize = 2200 << 20;
/// More than any window.
const NEAR: usize = 64 << 20;
/// A timeout of the connection tracker in seconds. A proof holds a third of it.
const TIMEOUT: u32 = 6;
const PROOF: Duration = Duration::from_secs(TIMEOUT as u64 / 3);

/// Lets the second node's pods have what belongs to connections that the first node's pods have begun, on both nodes.
fn filter(overlay: &Overlay) -> Result<()> {
    for (node, new) in overlay.nodes().iter().zip(["-i cni0", "-o cni0"]) {
        // The last one is the first rule then.
        for rule in [
            "-j DROP",
            &format!("{new} -m conntrack --ctstate NEW -j ACCEPT"),
            "-m conntrack --ctstate ESTABLISHED -j ACCEPT",
            "-m conntrack --ctstate INVALID -j DROP",
        ] {
            node.exec(&format!("iptables -I FORWARD {rule}"))?;
        }
    }
    Ok(())
}

/// Sets a setting of the connection tracker on all nodes.
fn set(overlay: &Overlay, setting: &str, value: u32) -> Result<()> {
    let name = format!("net.netfilter.nf_conntrack_{setting}");
    overlay.nodes().iter().try_for_each(|node| node.netns().set(&[(&name, &value.to_string())]))
}

/// Waits until proofs hold a third of [`TIMEOUT`].
fn wait_short_proofs(overlay: &Overlay) -> Result<()> {
    eventually("proofs are short", SOON, || {
        for node in overlay.nodes() {
            let config = inspect::node_config(node)?;
            let shortest = config.tcp_proof.min(config.udp_proof);
            ensure!(u128::from(shortest) == PROOF.as_millis(), "{shortest} ms");
        }
        Ok(())
    })
}

/// Opens a connection between two pods that takes the shortcut, but for a packet of each side now and then.
fn open(overlay: &Overlay) -> Result<TcpSession> {
    let (one, other) = overlay.two_pods();
    let mut session = TcpSession::open(one, other)?;
    (0..3).try_for_each(|_| session.exchange(100))?;
    Ok(session)
}

/// Ends a connection by a reset. Fails unless the other end gets it.
fn reset_arrives(end: TcpStream, mut other: &TcpStream) -> Result<()> {
    reset(end)?;
    let error = other.read(&mut [0; 16]).err().context("the connection has ended without a reset")?;
    ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}");
    Ok(())
}

/// Returns what a node's connection tracker knows of a connection.
fn tracked(node: &Node, TcpSession { client, .. }: &TcpSession) -> Result<Entry> {
    let tuple = Tuple { source: client.local_addr()?, destination: client.peer_addr()? };
    let entries = node.netns().run(|| Tracker::open()?.entries(&[tuple]))?;
    entries[0].context("the connection is not tracked")
}

#[test]
fn a_reset_after_gigabytes_arrives() -> TestResult {
    let overlay = overlay_of(1)?;
    filter(&overlay)?;
    for client_sends in [true, false] {
        let TcpSession { client, server, .. } = open(&overlay)?;
        let (from, to) = if client_sends { (client, server) } else { (server, client) };
        pour(&from, &to, FAR)?;
        reset_arrives(from, &to).with_context(|| format!("client_sends: {client_sends}"))?;
    }
    Ok(())
}

#[test]
fn a_connection_that_was_long_idle_goes_on() -> TestResult {
    let overlay = overlay_of(1)?;
    filter(&overlay)?;
    set(&overlay, "tcp_timeout_unacknowledged", TIMEOUT)?;
    wait_short_proofs(&overlay)?;
    let (one, other) = overlay.two_pods();
    let mut session = TcpSession::open(one, other)?;
    for node in overlay.nodes() {
        eventually("the tracker misses an acknowledgement", 3 * PROOF, || {
            // The tracker sees the first of these packets, and one acknowledgement of all, which it does not take for that.
            session.server.set_quickack(false)?;
            (0..4).try_for_each(|_| session.client.write_all(&[0; 100]))?;
            session.server.read_exact(&mut [0; 400])?;
            let entry = tracked(node, &session)?;
            ensure!(entry.flags[0] & UNACKNOWLEDGED != 0, "{entry:?}");
            Ok(())
        })?;
    }
    let idle = Instant::now();
    for node in overlay.nodes() {
        eventually("it has time as any other connection has", 3 * PROOF, || {
            let entry = tracked(node, &session)?;
            ensure!(entry.timeout > 1000 && entry.flags[0] & UNACKNOWLEDGED == 0, "{entry:?}");
            Ok(())
        })?;
    }
    let left = Duration::from_secs(TIMEOUT.into()).saturating_sub(idle.elapsed());
    throughout("it stays known", left, || tracked(&overlay.nodes()[1], &session).map(drop))?;
    session.server.write_all(b"late")?;
    let mut late = [0; 4];
    session.client.set_read_timeout(Some(scaled(SOON)))?;
    session.client.read_exact(&mut late)?;
    assert_eq!(&late, b"late");
    Ok(())
}

#[test]
fn connections_go_on_and_end_where_the_settings_are_taken_back_for_good() -> TestResult {
    // Such agents cannot set them again.
    let contain = |agent: AgentBuilder| agent.with_capabilities(&FULL).read_only_sysctls();
    let cluster = Cluster::build(Topology::segment(2))?;
    let strict = |strict: bool| {
        let value = if strict { "0" } else { "1" };
        let values = [
            ("net.netfilter.nf_conntrack_tcp_be_liberal", value),
            ("net.netfilter.nf_conntrack_tcp_ignore_invalid_rst", "0"),
        ];
        move |node: &Node| node.netns().set(&values)
    };
    cluster.nodes().iter().try_for_each(strict(false))?;
    let overlay = Overlay::launch_on(NETWORK, cluster, &["--dataplane=bpf"; 2], 1, contain)?;
    overlay.wait_joined()?;
    overlay.wait_plugged()?;
    filter(&overlay)?;
    set(&overlay, "tcp_timeout_unacknowledged", TIMEOUT)?;
    wait_short_proofs(&overlay)?;
    let [mut session, mut other] = [open(&overlay)?, open(&overlay)?];
    pour(&session.client, &session.server, FAR)?;
    pour(&other.client, &other.server, NEAR)?;
    for (node, session) in
        overlay.nodes().iter().flat_map(|node| [&session, &other].map(|session| (node, session)))
    {
        eventually("the tracker accepts all that comes", 3 * PROOF, || {
            let entry = tracked(node, session)?;
            let is_liberal = |flags: u8| flags & (BE_LIBERAL | MAXACK_SET) == BE_LIBERAL;
            ensure!(entry.flags.into_iter().all(is_liberal), "{entry:?}");
            Ok(())
        })?;
    }
    overlay.nodes().iter().try_for_each(strict(true))?;
    throughout("it goes on", PROOF, || {
        let start = Instant::now();
        session.exchange(16 << 10)?;
        ensure!(start.elapsed() < scaled(PROOF / 2), "it stood still for {:?}", start.elapsed());
        Ok(())
    })?;
    let TcpSession { client, server, .. } = session;
    reset_arrives(client, &server)?;
    other.client.shutdown(Shutdown::Write)?;
    assert_eq!(other.server.read(&mut [0])?, 0, "the end of the connection");
    Ok(())
}

#[test]
fn a_stream_of_datagrams_is_whole_with_a_timeout_shorter_than_a_proof() -> TestResult {
    let overlay = overlay_of(1)?;
    filter(&overlay)?;
    for setting in ["udp_timeout", "udp_timeout_stream"] {
        set(&overlay, setting, TIMEOUT)?;
    }
    wait_short_proofs(&overlay)?;
    let (one, other) = overlay.two_pods();
    let mut session = UdpSession::open(one, other)?;
    session.request(100)?;
    // The client says nothing more.
    throughout("the answers arrive", Duration::from_nanos(PROOF_NS) + PROOF, || session.answer(100))?;
    let received = inspect::shortcut(&overlay.nodes()[0])?.1;
    assert!(received > 100, "{received} datagrams were received past the stack");
    Ok(())
}
