//! The ways by which VXLAN reaches a node's socket. Each leads to the pods on the floor, for peers and for strangers. With
//! BPF each still does for peers, and none for strangers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Result, ensure};
use etherparse::{EtherType, IpNumber};
use flannel_common::node;
use flannel_tests::traffic::send_frame;
use flannel_tests::wait::patiently;
use flannel_tests::{Node, Pod, TestResult, Topology};

use super::{ATTACKER, SERVICE, receive};
use crate::inspect::{self, DEVICE, UPLINK};
use crate::network::ipv6::{DEVICE as DEVICE6, DUAL};
use crate::overlay::Overlay;
use crate::packets::{Ipv4, PORT, frame, ipv4, ipv6, udp, udp_over_ipv6, vxlan};

/// Time limit for a new interface to be checked.
const SOON: Duration = Duration::from_secs(15);
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 168, 64, 77);
const STRANGER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x192, 0x168, 0x40, 0, 0, 0, 0x77);
/// Addresses of the receiving node beside its public ones.
const SECOND: Ipv4Addr = Ipv4Addr::new(192, 168, 64, 201);
const SECOND6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x192, 0x168, 0x40, 0, 0, 0, 0x201);
const ON_LOOPBACK: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const ON_LOOPBACK6: Ipv6Addr = Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1);
const ON_NIC: Ipv4Addr = Ipv4Addr::new(172, 31, 9, 1);
const ON_NIC6: Ipv6Addr = Ipv6Addr::new(0xfd31, 9, 0, 0, 0, 0, 0, 1);
/// A second NIC, which is joined to the sender's.
const NIC: &str = "eth1";
const BROADCAST: [u8; 6] = [0xff; 6];

/// A way of a packet: the sender's interface, the outer destination MAC (`None`: that of the receiver's interface of the
/// same name) and the outer destination.
type Way = (&'static str, &'static str, Option<[u8; 6]>, IpAddr);

fn ways(victim: &Node) -> Vec<Way> {
    let all_hosts = Some([0x01, 0, 0x5e, 0, 0, 1]);
    let all_nodes = Some([0x33, 0x33, 0, 0, 0, 1]);
    let all_nodes6 = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    vec![
        ("the public address", UPLINK, None, victim.ip().into()),
        ("a second address", UPLINK, None, SECOND.into()),
        ("another NIC's address", UPLINK, None, ON_NIC.into()),
        ("an address of loopback", UPLINK, None, ON_LOOPBACK.into()),
        ("broadcast", UPLINK, Some(BROADCAST), Ipv4Addr::new(192, 168, 64, 255).into()),
        ("broadcast on the link", UPLINK, Some(BROADCAST), Ipv4Addr::BROADCAST.into()),
        ("all hosts", UPLINK, all_hosts, Ipv4Addr::new(224, 0, 0, 1).into()),
        ("the public address by another NIC", NIC, None, victim.ip().into()),
        ("another NIC", NIC, None, ON_NIC.into()),
        ("the public IPv6 address", UPLINK, None, victim.ip6().into()),
        ("a second IPv6 address", UPLINK, None, SECOND6.into()),
        ("another NIC's IPv6 address", UPLINK, None, ON_NIC6.into()),
        ("an IPv6 address of loopback", UPLINK, None, ON_LOOPBACK6.into()),
        ("all nodes", UPLINK, all_nodes, all_nodes6.into()),
        ("the public IPv6 address by another NIC", NIC, None, victim.ip6().into()),
        ("another NIC, over IPv6", NIC, None, ON_NIC6.into()),
    ]
}

/// Forms that outer IPv4 packets may have.
const SHAPES: [&str; 3] = ["plain", "options", "fragments"];
/// Bytes of the first fragment, which has the inner source.
const FIRST: usize = 56;

/// Gives a node the addresses that the ways lead to.
fn add_addresses(victim: &Node, peer: &Node) -> Result<()> {
    victim.netns().ip(&[
        format!("link add {NIC} type veth peer name {NIC} netns {}", peer.netns().name()),
        format!("link set {NIC} up"),
        format!("addr add {SECOND}/24 dev {UPLINK}"),
        format!("addr add {SECOND6}/64 dev {UPLINK} nodad"),
        format!("addr add {ON_LOOPBACK}/32 dev lo"),
        format!("addr add {ON_LOOPBACK6}/128 dev lo"),
        format!("addr add {ON_NIC}/24 dev {NIC}"),
        format!("addr add {ON_NIC6}/64 dev {NIC} nodad"),
    ])?;
    peer.netns().ip(&[format!("link set {NIC} up")])?;
    victim.netns().set(&[
        ("net.ipv4.conf.all.rp_filter", "0"),
        (&format!("net.ipv4.conf.{NIC}.rp_filter"), "0"),
        (&format!("net.ipv4.conf.{UPLINK}.rp_filter"), "0"),
    ])
}

/// Waits until the node checks senders at the new interface. It drops their packets before.
fn wait_checked(victim: &Node) -> Result<()> {
    patiently("senders are checked at the new interface", SOON, || {
        ensure!(!inspect::programs(victim, NIC)?.is_empty(), "there is no program yet");
        Ok(())
    })
}

fn mac(node: &Node, interface: &str) -> Result<[u8; 6]> {
    Ok(inspect::link(node, interface)?.mac.parse::<flannel_agent::mac::Mac>()?.0)
}

/// Makes a VXLAN header and a frame from `source` to a pod, as the receiving node's vxlan device of that family accepts it.
fn tunnelled(victim: &Node, source: IpAddr, pod: IpAddr, payload: &[u8]) -> Result<Vec<u8>> {
    let (device, ether_type, packet) = match (source, pod) {
        (IpAddr::V4(source), IpAddr::V4(pod)) => {
            let packet = ipv4(source, pod, IpNumber::UDP, udp(53, SERVICE, payload)).bytes();
            (DEVICE, EtherType::IPV4, packet)
        }
        (IpAddr::V6(source), IpAddr::V6(pod)) => {
            let datagram = udp_over_ipv6(source, pod, 53, SERVICE, payload);
            (DEVICE6, EtherType::IPV6, ipv6(source, pod, IpNumber::UDP, datagram).bytes())
        }
        _ => unreachable!("two families"),
    };
    Ok(vxlan(8, 1, &frame(mac(victim, device)?, ATTACKER, ether_type, &packet)))
}

/// Adds options to a packet, and their length to its length.
fn with_options(packet: Ipv4) -> Ipv4 {
    let mut packet = packet.options([1, 1, 1, 0]);
    packet.header.set_payload_len(packet.payload.len()).expect("a short packet");
    packet
}

/// Returns the packets that a packet of this form is sent as.
fn shaped(packet: Ipv4, shape: &str) -> Vec<Ipv4> {
    match shape {
        "options" => vec![with_options(packet)],
        "fragments" => fragments(packet).into(),
        _ => vec![packet],
    }
}

fn fragments(packet: Ipv4) -> [Ipv4; 2] {
    [(0, FIRST, true), (FIRST, packet.payload.len(), false)].map(|(from, to, more)| {
        let mut part = packet.clone().fragment((from / 8).try_into().expect("a short packet"), more);
        part.payload = packet.payload[from..to].to_vec();
        part.header.set_payload_len(part.payload.len()).expect("a short packet");
        part
    })
}

/// A node and its pods under attack, and the peer from which everything is sent.
struct Scene<'a> {
    victim: &'a Node,
    pods: &'a [Pod],
    peer: &'a Node,
    peer_pod: &'a Pod,
    /// Sockets of the first pod, for IPv4 and IPv6.
    sockets: [UdpSocket; 2],
}

impl<'a> Scene<'a> {
    fn open(victim: &'a Node, pods: &'a [Pod], peer: &'a Node, peer_pod: &'a Pod) -> Result<Self> {
        let [v4, v6] = [pods[0].ip(), pods[0].v6()?.ip].map(|ip| pods[0].netns().udp_bind(ip, SERVICE));
        Ok(Self { victim, pods, peer, peer_pod, sockets: [v4?, v6?] })
    }

    fn address(&self, pod: &Pod, like: IpAddr) -> Result<IpAddr> {
        if like.is_ipv6() { Ok(pod.v6()?.ip) } else { Ok(pod.ip()) }
    }

    /// Receives the next datagram over the family of this address.
    fn next(&self, like: IpAddr) -> Result<String> {
        let [v4, v6] = &self.sockets;
        Ok(String::from_utf8(receive(if like.is_ipv6() { v6 } else { v4 })?)?)
    }

    /// Sends a packet with the peer's pod as inner source by a way, from this outer source.
    fn send(&self, way: &Way, shape: &str, forged: bool, payload: &[u8]) -> Result<()> {
        let (_, interface, destination, to) = *way;
        let (source, pod) = (self.address(self.peer_pod, to)?, self.address(&self.pods[0], to)?);
        let inside = tunnelled(self.victim, source, pod, payload)?;
        let destination = destination.map_or_else(|| mac(self.victim, interface), Ok)?;
        let outer: Vec<_> = match to {
            IpAddr::V4(to) => {
                let from = if forged { STRANGER } else { self.peer.ip() };
                let packet = ipv4(from, to, IpNumber::UDP, udp(41000, PORT, &inside));
                let packets = shaped(packet, shape).into_iter();
                packets.map(|packet| frame(destination, ATTACKER, EtherType::IPV4, &packet.bytes())).collect()
            }
            IpAddr::V6(to) => {
                let from = if forged { STRANGER6 } else { self.peer.ip6() };
                let datagram = udp_over_ipv6(from, to, 41000, PORT, &inside);
                let packet = ipv6(from, to, IpNumber::UDP, datagram);
                vec![frame(destination, ATTACKER, EtherType::IPV6, &packet.bytes())]
            }
        };
        outer.iter().try_for_each(|frame| send_frame(self.peer.netns(), interface, frame))
    }

    /// Returns what arrives of a stranger's and a peer's packet by a way.
    fn arriving(&self, way: &Way, shape: &str) -> Result<Vec<String>> {
        self.send(way, shape, true, b"forged")?;
        self.send(way, shape, false, b"real")?;
        let mut arrived = vec![self.next(way.3)?];
        if arrived[0] != "real" {
            arrived.push(self.next(way.3)?);
        }
        Ok(arrived)
    }

    /// Sends a forged packet from a socket on the node itself, or in one of its pods. Returns what arrives until the peer's
    /// packet does.
    fn arriving_from(&self, from: &flannel_tests::NetNs, to: IpAddr) -> Result<String> {
        let (source, pod) = (self.address(self.peer_pod, to)?, self.address(&self.pods[0], to)?);
        let inside = tunnelled(self.victim, source, pod, b"forged")?;
        let any: IpAddr =
            if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        from.udp_bind(any, 0)?.send_to(&inside, (to, PORT))?;
        let public = if to.is_ipv6() { self.victim.ip6().into() } else { self.victim.ip().into() };
        self.send(&("", UPLINK, None, public), "plain", false, b"real")?;
        let first = self.next(to)?;
        if first != "real" {
            self.next(to)?;
        }
        Ok(first)
    }

    /// Lets the second pod, which may configure its own interface, write the note of the check on all that it sends. A
    /// program that returns -1 chooses the class of its filter, which becomes `tc_index`.
    fn forge_note(&self) -> Result<()> {
        let note = node::checked_note(inspect::node_config(self.victim)?.handover_key);
        let lines = format!(
            "qdisc add dev eth0 clsact\nfilter add dev eth0 egress bpf bytecode '1,6 0 0 4294967295' classid 1:{note:x}\n"
        );
        self.pods[1].netns().exec_with("tc -batch -", &lines)?;
        Ok(())
    }

    /// Returns the node's own addresses to which its pods and processes can send.
    fn own_addresses(&self) -> Result<Vec<(IpAddr, bool)>> {
        let subnet = self.victim.subnet_env()?;
        let gateways = subnet.gateways().into_iter().map(|gateway| (gateway.addr, true));
        let public = [(self.victim.ip().into(), true), (self.victim.ip6().into(), true)];
        let loopback = [(Ipv4Addr::LOCALHOST.into(), false), (Ipv6Addr::LOCALHOST.into(), false)];
        Ok(gateways.chain(public).chain(loopback).collect())
    }
}

fn shown(arrived: Result<impl std::fmt::Debug>) -> String {
    arrived.map_or_else(|error| format!("{error:#}"), |arrived| format!("{arrived:?}"))
}

#[test]
fn each_way_is_open_to_peers_and_closed_to_strangers() -> TestResult {
    let flags = ["--dataplane=bpf", "--dataplane=netlink", "--dataplane=bpf"];
    let overlay = Overlay::start_in(DUAL, Topology::segment(3), &flags, 2, |agent| agent)?;
    let [guarded, floor, peer] = overlay.nodes() else { unreachable!("three nodes") };
    let mut failures = Vec::new();
    for (index, victim) in [guarded, floor].into_iter().enumerate() {
        // One after the other: both are joined to the same NIC of the peer.
        add_addresses(victim, peer)?;
        if index == 0 {
            wait_checked(victim)?;
        }
        let scene = Scene::open(victim, &overlay.pods[index], peer, &overlay.pods[2][0])?;
        let expected: &[&str] = if index == 0 { &["real"] } else { &["forged", "real"] };
        for way in ways(victim) {
            for shape in SHAPES.into_iter().take(if way.3.is_ipv4() { SHAPES.len() } else { 1 }) {
                match scene.arriving(&way, shape) {
                    Ok(arrived) if arrived == expected => {}
                    arrived => {
                        failures.push(format!("{}: {} ({shape}): {}", victim.name(), way.0, shown(arrived)));
                    }
                }
            }
        }
        let pod = scene.pods[1].netns();
        let own = scene.own_addresses()?;
        for (to, from_pods) in &own {
            for from in [victim.netns().as_ref(), pod].into_iter().take(1 + usize::from(*from_pods)) {
                match scene.arriving_from(from, *to) {
                    Ok(arrived) if arrived == expected[0] => {}
                    arrived => failures.push(format!("from {} to {to}: {}", from.name(), shown(arrived))),
                }
            }
        }
        if index == 0 {
            scene.forge_note()?;
            for (to, _) in own.iter().filter(|(_, from_pods)| *from_pods) {
                match scene.arriving_from(pod, *to) {
                    Ok(arrived) if arrived == "real" => {}
                    arrived => failures.push(format!("with a forged note to {to}: {}", shown(arrived))),
                }
            }
        }
        victim.netns().ip(&[format!("link del {NIC}")])?;
    }
    assert!(failures.is_empty(), "{failures:#?}");
    Ok(())
}
