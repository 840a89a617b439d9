//! The flow cache: traffic that never takes the shortcut past the host stack.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use etherparse::{EtherType, IpNumber};
use flannel_agent::mac::Mac;
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::traffic::{At, TcpSession, ping, send_frame, udp_echo};
use flannel_tests::{Capture, Node, Pod, TestResult, eventually};

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

/// Makes the node translate a service's address and UDP port 53 to a server's.
fn serve_at(node: &Node, service: IpAddr, server: SocketAddr) -> Result<()> {
    let rule = format!("-d {service} -p udp --dport 53 -j DNAT --to-destination {server}");
    node.exec(&format!("iptables -t nat -A PREROUTING {rule}")).map(drop)
}

#[test]
fn a_service_is_never_cached_where_it_is_translated() -> TestResult {
    let overlay = overlay_of(1)?;
    let node = &overlay.nodes()[0];
    let (client, server) = overlay.two_pods();
    let IpAddr::V4(base) = server.ip() else { unreachable!("pods have IPv4 addresses") };
    // Addresses without a pod: one of a service network, one of the server's subnet.
    for service in [Ipv4Addr::new(10, 96, 0, 10), (base.to_bits() + 100).into()].map(IpAddr::V4) {
        let (asks, answers) =
            (client.netns().udp_bind(client.ip(), 0)?, server.netns().udp_bind(server.ip(), 0)?);
        serve_at(node, service, answers.local_addr()?)?;
        (0..10).try_for_each(|_| round_trip(&asks, (service, 53).into(), &answers))?;
        assert_eq!(inspect::shortcut(node)?, (0, 0), "packets to or from {service}");
    }
    let flows = inspect::flows(node)?;
    assert!(!flows.is_empty(), "the programs have seen nothing");
    assert!(flows.values().all(|flow| !flow.egress.is_known() && !flow.ingress.is_known()), "{flows:#?}");
    assert!(flows.keys().all(|key| key.remote != [10, 96, 0, 10]), "{flows:#?}");
    // The server's node translates nothing.
    assert!(inspect::shortcut(&overlay.nodes()[1])?.0 > 0, "the answers skip the server's stack");
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
