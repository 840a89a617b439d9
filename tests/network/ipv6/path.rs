//! Packets that are too long: the pod gets "packet too big", wherever on the path they are too long.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::ensure;
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::traffic::{Ping, PingAnswer, TcpSession, ping_with};
use flannel_tests::wait::scaled;
use flannel_tests::{TestResult, Topology, eventually};

use super::{BPF, V6_ONLY, base, start, two_nodes, two_pods, ways};
use crate::inspect;

const MTU: usize = 1430;
/// Time limit to get the error and send lost data again. Shorter than a proof holds (10 s).
const RECOVERY: Duration = Duration::from_secs(4);

#[test]
fn the_node_answers_a_pod_whose_mtu_is_too_large() -> TestResult {
    let overlay = two_nodes()?;
    let (pod, remote) = overlay.two_pods();
    let (from, to) = (pod.v6()?, remote.v6()?);
    pod.exec("ip link set eth0 mtu 9000")?;
    overlay.nodes()[0].netns().ip(&[format!("link set {} mtu 9000", pod.port())])?;
    let answer = |length: usize| {
        ping_with(&from, to.ip, &Ping { size: length - 48, dont_fragment: true, ..Ping::default() })
    };
    assert!(matches!(answer(MTU)?, PingAnswer::Reply { .. }));
    let gateway: IpAddr = std::net::Ipv6Addr::from_bits(base(&overlay.nodes()[0])?.to_bits() | 1).into();
    for length in [MTU + 1, 1500, 1501, 8999] {
        assert_eq!(answer(length)?, PingAnswer::TooBig { by: gateway, mtu: MTU as u32 }, "{length} bytes");
    }
    Ok(())
}

#[test]
fn a_connection_recovers_when_the_mtu_of_the_underlay_shrinks() -> TestResult {
    const NARROW: u32 = 1400;
    let overlay = start(Topology::two_nodes_routed(), V6_ONLY, &[BPF; 2])?;
    let (one, other) = two_pods(&overlay)?;
    let mut session = TcpSession::open(&one, &other)?;
    for _ in 0..5 {
        session.exchange(32 << 10)?;
    }
    let (node, before) = (&overlay.nodes()[0], ways(&overlay.nodes()[0])?);
    assert!(before.shortcut.0 > 0, "{before:?}");
    // The router's link to the second node: the router answers longer packets with "packet too big".
    let fabric = overlay.cluster.fabric().expect("a router");
    fabric.ip(&[format!("link set seg1 mtu {NARROW}")])?;
    session.client.set_read_timeout(Some(scaled(RECOVERY)))?;
    session.server.set_read_timeout(Some(scaled(RECOVERY)))?;
    session.exchange(64 << 10)?;
    let too_big = inspect::packets(node, Hook::PodEgress, Outcome::TooBig)?;
    assert!(too_big > 0, "nothing was found too big for the path");
    // Packets that fit take the shortcut again.
    let then = ways(node)?;
    eventually("the shortcut is taken again", RECOVERY, || {
        session.exchange(32 << 10)?;
        let now = ways(node)?;
        ensure!(now.shortcut.0 > then.shortcut.0, "{now:?}");
        Ok(())
    })?;
    Ok(())
}
