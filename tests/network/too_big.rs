//! Packets that must not be fragmented: they arrive if they fit, else they are answered with the right MTU.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::traffic::{At, Ping, PingAnswer, TcpSession, ping_with};
use flannel_tests::wait::scaled;
use flannel_tests::{Host, TestResult, Topology, eventually};

use crate::inspect::{self, UPLINK};
use crate::overlay::Overlay;

const MTU: usize = 1450;
/// An MTU smaller than that of the nodes' links when their pods were added.
const NARROW: u32 = 1400;
/// Time limit to get the error and send lost data again. Shorter than a proof holds (10 s).
const RECOVERY: Duration = Duration::from_secs(4);

/// Pings with an IPv4 packet of this length that must not be fragmented, and returns the answer.
fn answer(from: &dyn Host, to: IpAddr, length: usize) -> Result<PingAnswer> {
    ping_with(from, to, &Ping { size: length - 28, dont_fragment: true, ..Ping::default() })
}

fn ensure_fits(from: &dyn Host, to: IpAddr) -> Result<()> {
    match answer(from, to, MTU)? {
        PingAnswer::Reply { .. } => Ok(()),
        other => bail!("{MTU} bytes from {}: {other:?}", from.ip()),
    }
}

#[test]
fn a_pod_cannot_send_more_than_its_interface_takes() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    let (pod, remote) = overlay.two_pods();
    ensure_fits(pod, remote.ip())?;
    let own_interface = PingAnswer::TooBig { by: Ipv4Addr::UNSPECIFIED.into(), mtu: 0 };
    assert_eq!(answer(pod, remote.ip(), MTU + 1)?, own_interface);
    let host = At { netns: overlay.nodes()[0].netns(), ip: IpAddr::V4(overlay.base(0)?) };
    ensure_fits(&host, remote.ip())?;
    assert_eq!(answer(&host, remote.ip(), MTU + 1)?, own_interface);
    Ok(())
}

#[test]
fn the_node_answers_a_pod_whose_mtu_is_too_large() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    let (pod, remote) = overlay.two_pods();
    pod.exec("ip link set eth0 mtu 9000")?;
    overlay.nodes()[0].netns().ip(&[format!("link set {} mtu 9000", pod.port())])?;
    ensure_fits(pod, remote.ip())?;
    let gateway = Ipv4Addr::from_bits(overlay.base(0)?.to_bits() | 1);
    for length in [MTU + 1, 1500, 1501, 8999] {
        let told = PingAnswer::TooBig { by: gateway.into(), mtu: MTU as u32 };
        assert_eq!(answer(pod, remote.ip(), length)?, told, "{length} bytes");
    }
    Ok(())
}

/// Starts two nodes with a router between them, and opens a connection between their pods that skips the stacks.
fn connected() -> Result<(TcpSession, Overlay)> {
    let overlay = Overlay::start(Topology::two_nodes_routed(), &["--dataplane=bpf"; 2], 1)?;
    let (one, other) = overlay.two_pods();
    overlay.wait_plugged()?;
    let mut session = TcpSession::open(one, other)?;
    eventually("the connection skips the stacks", RECOVERY, || {
        session.exchange(32 << 10)?;
        let ways = overlay.nodes().iter().map(inspect::shortcut).collect::<Result<Vec<_>>>()?;
        ensure!(ways.iter().all(|(sent, delivered)| *sent > 0 && *delivered > 0), "{ways:?}");
        Ok(())
    })?;
    session.client.set_read_timeout(Some(scaled(RECOVERY)))?;
    session.server.set_read_timeout(Some(scaled(RECOVERY)))?;
    Ok((session, overlay))
}

#[test]
fn a_connection_goes_on_when_the_mtu_of_the_underlay_shrinks() -> TestResult {
    let (mut session, overlay) = connected()?;
    let receiver = &overlay.nodes()[1];
    let fragments = || inspect::packets(receiver, Hook::UnderlayIngress, Outcome::OuterFragment);
    assert_eq!(fragments()?, 0);
    // The router fragments longer packets: outer packets have no "don't fragment".
    overlay.cluster.fabric().expect("a router").ip(&[format!("link set seg1 mtu {NARROW}")])?;
    session.exchange(64 << 10)?;
    assert!(fragments()? > 0, "no packet was fragmented");
    Ok(())
}

#[test]
fn a_connection_recovers_when_the_mtu_of_the_uplink_shrinks() -> TestResult {
    let (mut session, overlay) = connected()?;
    let node = &overlay.nodes()[0];
    node.netns().ip(&[format!("link set {UPLINK} mtu {NARROW}")])?;
    overlay.cluster.fabric().expect("a router").ip(&[format!("link set seg0 mtu {NARROW}")])?;
    eventually("the agent follows", RECOVERY, || {
        let known = inspect::node_config(node)?.v4.uplink_mtu;
        ensure!(known == NARROW, "the programs know an MTU of {known}");
        Ok(())
    })?;
    session.exchange(64 << 10)?;
    let (pod, remote) = overlay.two_pods();
    let told = pod.exec(&format!("ip route get {}", remote.ip()))?;
    assert!(told.contains(&format!("mtu {}", NARROW - 50)), "the pod does not know the MTU: {told}");
    let before = inspect::shortcut(node)?;
    eventually("packets that fit skip the stack again", RECOVERY, || {
        session.exchange(32 << 10)?;
        let now = inspect::shortcut(node)?;
        ensure!(now.0 > before.0 && now.1 > before.1, "{now:?}");
        Ok(())
    })?;
    Ok(())
}
