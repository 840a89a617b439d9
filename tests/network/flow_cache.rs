//! The flow cache: what takes the shortcut past the host stack, and what does not.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use etherparse::{EtherType, IpNumber};
use flannel_agent::mac::Mac;
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::traffic::{At, TcpSession, UdpSession, ping, send_frame, tcp_transfer, udp_echo};
use flannel_tests::{Capture, Node, Pod, TestResult, Topology, eventually};

use crate::inspect::{self, UPLINK};
use crate::overlay::Overlay;
use crate::packets::{frame, ipv4, udp};

/// How long the agent may take to follow.
pub(super) const SOON: Duration = Duration::from_secs(3);

/// Two nodes with BPF and this many pods each, whose ports have their programs.
pub(super) fn overlay_of(pods: usize) -> Result<Overlay> {
    let overlay = Overlay::start(Topology::segment(2), &["--dataplane=bpf"; 2], pods)?;
    for (node, pods) in overlay.nodes().iter().zip(&overlay.pods) {
        pods.iter().try_for_each(|pod| wait_plugged(node, pod))?;
    }
    Ok(overlay)
}

/// Waits until the programs are on a pod's port.
pub(super) fn wait_plugged(node: &Node, pod: &Pod) -> Result<()> {
    eventually("the pod's port has its programs", SOON, || {
        let programs = inspect::tcx_programs(node, pod.port())?;
        ensure!(programs == ["pod_egress", "pod_ingress"], "there are {programs:?}");
        Ok(())
    })
}

/// Packets that a node sent and received past its host stack, and through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ways {
    shortcut: (u64, u64),
    stack: (u64, u64),
}

impl Ways {
    fn of(node: &Node) -> Result<Self> {
        Ok(Self { shortcut: inspect::shortcut(node)?, stack: inspect::through_stack(node)? })
    }
}

fn ways(overlay: &Overlay) -> Result<[Ways; 2]> {
    let [one, other] = overlay.nodes() else { unreachable!("two nodes") };
    Ok([Ways::of(one)?, Ways::of(other)?])
}

#[test]
fn datagrams_take_the_shortcut_from_the_second_on() -> TestResult {
    const MORE: u64 = 50;
    let overlay = overlay_of(1)?;
    let (one, other) = overlay.two_pods();
    let mut session = UdpSession::open(one, other)?;
    session.echo(100)?;
    assert_eq!(ways(&overlay)?, [Ways { shortcut: (0, 0), stack: (1, 1) }; 2]);
    (0..MORE).try_for_each(|size| session.echo(size as usize * 29))?;
    assert_eq!(ways(&overlay)?, [Ways { shortcut: (MORE, MORE), stack: (1, 1) }; 2]);
    // No flow of TCP or UDP: every one through the stack.
    ping(one, other.ip())?;
    ping(other, one.ip())?;
    assert_eq!(ways(&overlay)?, [Ways { shortcut: (MORE, MORE), stack: (3, 3) }; 2]);
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
fn a_packet_looks_the_same_whichever_way_it_came() -> TestResult {
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
        // Two routers lie between: the nodes.
        assert_eq!((&packets[0][0], &packets[0][3]), (&"62".to_owned(), &"1".to_owned()));
        assert!(packets.iter().all(|packet| *packet == packets[0]), "{packets:#?}");
    }
    Ok(())
}

#[test]
fn traffic_beside_the_overlay_is_not_remembered() -> TestResult {
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

/// A datagram to an address that leads to the server, and the answer, which has to come from that address.
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

/// Has the node translate a service's address and port 53 to a server's.
fn serve_at(node: &Node, service: IpAddr, server: SocketAddr, protocol: &str) -> Result<()> {
    let rule = format!("-d {service} -p {protocol} --dport 53 -j DNAT --to-destination {server}");
    node.exec(&format!("iptables -t nat -A PREROUTING {rule}")).map(drop)
}

#[test]
fn a_service_is_never_cached_where_it_is_translated() -> TestResult {
    let overlay = overlay_of(1)?;
    let node = &overlay.nodes()[0];
    let (client, server) = overlay.two_pods();
    let IpAddr::V4(base) = server.ip() else { unreachable!("pods have IPv4 addresses") };
    // Addresses that no pod has: of a service network, and of the server's subnet.
    for service in [Ipv4Addr::new(10, 96, 0, 10), (base.to_bits() + 100).into()].map(IpAddr::V4) {
        let (asks, answers) =
            (client.netns().udp_bind(client.ip(), 0)?, server.netns().udp_bind(server.ip(), 0)?);
        serve_at(node, service, answers.local_addr()?, "udp")?;
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

/// Datagrams from a pod to another that say they are of another source.
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
fn a_pod_that_lies_about_its_address_gets_nothing_from_the_cache() -> TestResult {
    let overlay = overlay_of(2)?;
    let node = &overlay.nodes()[0];
    let (honest, liar, remote) = (&overlay.pods[0][0], &overlay.pods[0][1], &overlay.pods[1][0]);
    ping(liar, remote.ip())?;
    let (client, server) =
        (honest.netns().udp_bind(honest.ip(), 0)?, remote.netns().udp_bind(remote.ip(), 0)?);
    let (source, target) = (client.local_addr()?, server.local_addr()?);
    (0..3).try_for_each(|_| round_trip(&client, target, &server))?;
    // In a neighbour's name: the neighbour's proof is not the liar's, and the answers are not for the liar.
    let before = Ways::of(node)?;
    assert_eq!(before.shortcut, (2, 2), "the neighbour's flow takes the shortcut");
    let capture = Capture::start(liar.netns(), "eth0")?;
    spoof(liar, source, target)?;
    let mut buffer = [0; 16];
    assert_eq!(server.recv_from(&mut buffer)?, (7, source));
    let sent = (before.stack.0 + 1, before.stack.1);
    assert_eq!(Ways::of(node)?, Ways { stack: sent, ..before }, "the lie went through the stack");
    (0..3).try_for_each(|_| round_trip(&client, target, &server))?;
    let leaked = capture.stop()?.count(&format!("ip.dst == {}", honest.ip()))?;
    assert_eq!(leaked, 0, "packets to the neighbour that the liar got");
    // In a stranger's name: the stack drops it.
    node.netns().set(&[("net.ipv4.conf.all.rp_filter", "1")])?;
    let stranger = SocketAddr::new(overlay.pods[1][1].ip(), 4000);
    let new = || inspect::packets(node, Hook::PodEgress, Outcome::FlowNew);
    let (before, counted) = (inspect::shortcut(node)?, new()?);
    (0..5).try_for_each(|_| spoof(liar, stranger, target))?;
    eventually("the datagrams are seen", SOON, || Ok(ensure!(new()? == counted + 5, "not yet")))?;
    assert_eq!(inspect::shortcut(node)?, before, "datagrams in a stranger's name");
    Ok(())
}

#[test]
fn without_the_flow_cache_all_goes_through_the_stack() -> TestResult {
    const ECHOES: u64 = 20;
    let overlay = Overlay::start(Topology::segment(2), &["--flow-cache=false"; 2], 1)?;
    let (one, other) = overlay.two_pods();
    let mut session = UdpSession::open(one, other)?;
    (0..ECHOES).try_for_each(|_| session.echo(100))?;
    assert_eq!(ways(&overlay)?, [Ways { shortcut: (0, 0), stack: (ECHOES, ECHOES) }; 2]);
    for (node, pods) in overlay.nodes().iter().zip(&overlay.pods) {
        assert_eq!(inspect::tcx_programs(node, pods[0].port())?, [""; 0]);
        assert_eq!(inspect::tcx_programs(node, UPLINK)?.len(), 1);
        assert_eq!(inspect::flows(node)?.len(), 0);
    }
    Ok(())
}
