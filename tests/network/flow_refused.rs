//! The flow cache: traffic that never takes the shortcut past the host stack.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use etherparse::{EtherType, IpNumber};
use flannel_agent::mac::Mac;
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::traffic::{At, TcpSession, ping, send_frame, udp_echo};
use flannel_tests::{Capture, Pod, TestResult, eventually};

use super::flow_cache::{PathCounts, SOON, overlay_of};
use crate::inspect;
use crate::packets::{frame, ipv4, udp};

#[test]
fn traffic_outside_the_overlay_is_not_cached() -> TestResult {
    let overlay = overlay_of(2)?;
    let [node, _] = overlay.nodes() else { unreachable!("two nodes") };
    let (pod, neighbour) = (&overlay.pods[0][0], &overlay.pods[0][1]);
    let router = overlay.cluster.fabric().context("a segment has a router")?;
    router.ip(&[format!("route add {}/24 via {}", overlay.base(0)?, node.ip())])?;
    let outside = At { netns: router, ip: Ipv4Addr::new(192, 168, 64, 254).into() };
    let counted = |outcome| inspect::packets(node, Hook::PodEgress, outcome);
    let before = counted(Outcome::NoLease)?;
    for _ in 0..5 {
        udp_echo(pod, neighbour, 100)?;
        udp_echo(pod, &outside, 100)?;
        udp_echo(&outside, pod, 100)?;
    }
    TcpSession::open(pod, neighbour)?.exchange(100)?;
    TcpSession::open(pod, &outside)?.exchange(100)?;
    assert!(counted(Outcome::NoLease)? >= before + 20, "the pods' programs have not seen it");
    let flows = inspect::flows(node)?;
    assert!(flows.is_empty(), "{flows:#?}");
    Ok(())
}

/// Sends a datagram to an address that leads to the server. The answer has to come from that address.
fn round_trip(client: &UdpSocket, to: SocketAddr, server: &UdpSocket) -> Result<()> {
    let mut buffer = [0; 16];
    client.send_to(b"question", to)?;
    let (_, asker) = server.recv_from(&mut buffer).context("the question")?;
    ensure!(asker == client.local_addr()?, "{asker} asks the server");
    server.send_to(b"answer", asker)?;
    let (length, answerer) = client.recv_from(&mut buffer).context("the answer")?;
    ensure!((length, answerer) == (6, to), "{length} bytes from {answerer}, asked was {to}");
    Ok(())
}

/// Sends a datagram from a pod with the source address of another one.
fn spoof(from: &Pod, source: SocketAddr, to: SocketAddr) -> Result<()> {
    let mac = |line: &str, field: &str| -> Result<[u8; 6]> {
        let shown = from.netns().exec_json(line)?;
        Ok(shown[0][field].as_str().with_context(|| format!("{line}: no {field}"))?.parse::<Mac>()?.0)
    };
    let (SocketAddr::V4(source), SocketAddr::V4(to)) = (source, to) else { unreachable!("IPv4") };
    let packet = ipv4(*source.ip(), *to.ip(), IpNumber::UDP, udp(source.port(), to.port(), b"spoofed"));
    let gateway = mac("ip -j neigh show dev eth0", "lladdr")?;
    let own = mac("ip -j link show dev eth0", "address")?;
    send_frame(from.netns(), "eth0", &frame(gateway, own, EtherType::IPV4, &packet.bytes()))
}

#[test]
fn a_pod_with_a_spoofed_address_gains_nothing_from_the_cache() -> TestResult {
    let overlay = overlay_of(2)?;
    let node = &overlay.nodes()[0];
    let (honest, spoofer, remote) = (&overlay.pods[0][0], &overlay.pods[0][1], &overlay.pods[1][0]);
    ping(spoofer, remote.ip())?;
    let (client, server) =
        (honest.netns().udp_bind(honest.ip(), 0)?, remote.netns().udp_bind(remote.ip(), 0)?);
    let (source, target) = (client.local_addr()?, server.local_addr()?);
    (0..3).try_for_each(|_| round_trip(&client, target, &server))?;
    // With a neighbour's address: the neighbour's proof does not count for the spoofer, which gets no answers.
    let before = PathCounts::of(node)?;
    assert_eq!(before.shortcut, (2, 2), "the neighbour's flow takes the shortcut");
    let capture = Capture::start(spoofer.netns(), "eth0")?;
    spoof(spoofer, source, target)?;
    let mut buffer = [0; 16];
    assert_eq!(server.recv_from(&mut buffer)?, (7, source));
    let sent = (before.stack.0 + 1, before.stack.1);
    assert_eq!(
        PathCounts::of(node)?,
        PathCounts { stack: sent, ..before },
        "the spoofed packet skipped the stack"
    );
    (0..3).try_for_each(|_| round_trip(&client, target, &server))?;
    let leaked = capture.stop()?.count(&format!("ip.dst == {}", honest.ip()))?;
    assert_eq!(leaked, 0, "packets for the neighbour that the spoofer got");
    // With a remote pod's address: the stack drops it.
    node.netns().set(&[("net.ipv4.conf.all.rp_filter", "1")])?;
    let remote_source = SocketAddr::new(overlay.pods[1][1].ip(), 4000);
    let new = || inspect::packets(node, Hook::PodEgress, Outcome::FlowNew);
    let (before, counted) = (inspect::shortcut(node)?, new()?);
    (0..5).try_for_each(|_| spoof(spoofer, remote_source, target))?;
    eventually("the datagrams are seen", SOON, || {
        ensure!(new()? == counted + 5, "not yet");
        Ok(())
    })?;
    assert_eq!(inspect::shortcut(node)?, before, "datagrams with a remote pod's address");
    Ok(())
}
