//! The flow cache: traffic that takes the shortcut past the host stack.

use std::time::Duration;

use anyhow::Result;
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::traffic::{TcpSession, UdpSession, ping, tcp_transfer};
use flannel_tests::{Capture, Node, TestResult, Topology};

use crate::inspect::{self, UPLINK};
use crate::overlay::Overlay;

/// Time limit for the agent to follow a change.
pub(super) const SOON: Duration = Duration::from_secs(5);

/// Starts two nodes with BPF and this number of pods each, and waits until the pods' ports have their programs.
pub(super) fn overlay_of(pods: usize) -> Result<Overlay> {
    let overlay = Overlay::start(Topology::segment(2), &["--dataplane=bpf"; 2], pods)?;
    overlay.wait_plugged()?;
    Ok(overlay)
}

/// Packets that a node has sent and received past its host stack, and through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PathCounts {
    pub(super) shortcut: (u64, u64),
    pub(super) stack: (u64, u64),
}

impl PathCounts {
    pub(super) fn of(node: &Node) -> Result<Self> {
        Ok(Self { shortcut: inspect::shortcut(node)?, stack: inspect::through_stack(node)? })
    }
}

fn ways(overlay: &Overlay) -> Result<[PathCounts; 2]> {
    let [one, other] = overlay.nodes() else { unreachable!("two nodes") };
    Ok([PathCounts::of(one)?, PathCounts::of(other)?])
}

#[test]
fn datagrams_take_the_shortcut_from_the_second_on() -> TestResult {
    const MORE: u64 = 50;
    let overlay = overlay_of(1)?;
    let (one, other) = overlay.two_pods();
    let mut session = UdpSession::open(one, other)?;
    session.echo(100)?;
    assert_eq!(ways(&overlay)?, [PathCounts { shortcut: (0, 0), stack: (1, 1) }; 2]);
    (0..MORE).try_for_each(|size| session.echo(size as usize * 29))?;
    assert_eq!(ways(&overlay)?, [PathCounts { shortcut: (MORE, MORE), stack: (1, 1) }; 2]);
    // ICMP is not cached: every packet passes the stack.
    ping(one, other.ip())?;
    ping(other, one.ip())?;
    assert_eq!(ways(&overlay)?, [PathCounts { shortcut: (MORE, MORE), stack: (3, 3) }; 2]);
    Ok(())
}

#[test]
fn tcp_takes_the_shortcut_both_ways() -> TestResult {
    const MORE: u64 = 50;
    let overlay = overlay_of(1)?;
    let (one, other) = overlay.two_pods();
    let mut session = TcpSession::open(one, other)?;
    for _ in 0..3 {
        session.exchange(100)?;
    }
    let before = ways(&overlay)?;
    (0..MORE).try_for_each(|_| session.exchange(100))?;
    for (node, (then, now)) in before.into_iter().zip(ways(&overlay)?).enumerate() {
        assert_eq!(now.stack, then.stack, "node {node}: packets through the stack");
        let shortcut = (now.shortcut.0 - then.shortcut.0, now.shortcut.1 - then.shortcut.1);
        assert!(shortcut.0 >= MORE && shortcut.1 >= MORE, "node {node}: {shortcut:?} past the stack");
    }
    tcp_transfer(one, other, 16 << 20)?;
    let aggregates = inspect::packets(&overlay.nodes()[1], Hook::OverlayIngress, Outcome::Delivered)?;
    assert!(aggregates > 0, "no aggregate went from the vxlan device to its pod");
    Ok(())
}

#[test]
fn a_packet_is_the_same_through_the_stack_and_past_it() -> TestResult {
    const ECHOES: usize = 5;
    let overlay = overlay_of(1)?;
    let (one, other) = overlay.two_pods();
    let captures = [one, other].map(|pod| (pod, Capture::start(pod.netns(), "eth0").unwrap()));
    let mut session = UdpSession::open(one, other)?;
    (0..ECHOES).try_for_each(|_| session.echo(64))?;
    let [first, second] = ways(&overlay)?;
    assert_eq!([first.shortcut, second.shortcut], [(4, 4), (4, 4)]);
    for (pod, capture) in captures {
        let fields = ["ip.ttl", "eth.src", "eth.dst", "ip.checksum.status", "ip.dsfield", "ip.len"];
        let packets = capture.stop()?.fields(&format!("udp && ip.dst == {}", pod.ip()), &fields)?;
        assert_eq!(packets.len(), ECHOES);
        // Two hops: the nodes.
        assert_eq!((&packets[0][0], &packets[0][3]), (&"62".to_owned(), &"1".to_owned()));
        assert!(packets.iter().all(|packet| *packet == packets[0]), "{packets:#?}");
    }
    Ok(())
}

#[test]
fn without_the_flow_cache_all_goes_through_the_stack() -> TestResult {
    const ECHOES: u64 = 20;
    let overlay = Overlay::start(Topology::segment(2), &["--flow-cache=false"; 2], 1)?;
    let (one, other) = overlay.two_pods();
    let mut session = UdpSession::open(one, other)?;
    (0..ECHOES).try_for_each(|_| session.echo(100))?;
    assert_eq!(ways(&overlay)?, [PathCounts { shortcut: (0, 0), stack: (ECHOES, ECHOES) }; 2]);
    for (node, pods) in overlay.nodes().iter().zip(&overlay.pods) {
        assert_eq!(inspect::programs(node, pods[0].port())?, [""; 0]);
        assert_eq!(inspect::programs(node, UPLINK)?.len(), 1);
        assert_eq!(inspect::flows(node)?.len(), 0);
    }
    Ok(())
}
