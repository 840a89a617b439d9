//! Ingress of the uplink: VXLAN from peers, and everything else that arrives there.

use std::net::Ipv4Addr;

use etherparse::{EtherType, IpNumber};
use flannel_common::outcome::{Hook, Outcome};

use super::flow::sample::{GATEWAY_MAC, POD_MAC, Way, controls, hop};
use super::flow::{
    FRESH, Flows, NEVER, OLD, POD_MTU, PROVEN, Row, UNKNOWN, check, flow, moved, none, of_tcp, of_udp, row,
};
use super::{
    OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Programs, Untouched, VNI, all_untouched, carried, untouched,
};
use crate::packets::{Ipv4, PORT, frame, ipv4, udp, vxlan};

/// A test run receives on the loopback interface, whose address is all zeroes: frames to it are for us.
const HOST_MAC: [u8; 6] = [0; 6];
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn inner() -> Vec<u8> {
    let packet =
        ipv4([10, 1, 15, 7].into(), [10, 1, 90, 2].into(), IpNumber::UDP, udp(53, 40000, b"payload"));
    frame(OUR_MAC, PEER_MAC, EtherType::IPV4, &packet.bytes())
}

fn outer(payload: &[u8]) -> Ipv4 {
    ipv4(PEER_IP.into(), OUR_IP.into(), IpNumber::UDP, udp(41000, PORT, payload))
}

fn arrives(packet: &Ipv4) -> Vec<u8> {
    frame(HOST_MAC, ROUTER_MAC, EtherType::IPV4, &packet.bytes())
}

fn carrying(inner: &[u8]) -> Vec<u8> {
    arrives(&outer(&vxlan(8, VNI, inner)))
}

/// A good packet with one byte changed and the outer IP checksum put right again.
fn with(at: usize, byte: u8) -> Vec<u8> {
    let mut packet = carrying(&inner());
    packet[at] = byte;
    let (header, _) = etherparse::Ipv4Header::from_slice(&packet[14..]).unwrap();
    packet[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    packet
}

#[test]
fn strips_what_a_peer_sent() {
    let smallest = frame(
        OUR_MAC,
        PEER_MAC,
        EtherType::IPV4,
        &ipv4([10, 1, 15, 7].into(), [10, 1, 90, 2].into(), IpNumber(253), vec![]).bytes(),
    );
    let longest = {
        let packet = ipv4([10, 1, 15, 7].into(), [10, 1, 90, 2].into(), IpNumber::UDP, udp(1, 2, &[7; 1422]));
        frame(OUR_MAC, PEER_MAC, EtherType::IPV4, &packet.bytes())
    };
    let fragment = {
        let packet =
            ipv4([10, 1, 15, 7].into(), [10, 1, 90, 2].into(), IpNumber::UDP, vec![3; 32]).fragment(10, true);
        frame(OUR_MAC, PEER_MAC, EtherType::IPV4, &packet.bytes())
    };
    let mut programs = Programs::load();
    for (description, sent) in [
        ("UDP", inner()),
        ("an IPv4 header and nothing else", smallest),
        ("the longest of a 1500-byte underlay", longest),
        ("an inner fragment", fragment),
    ] {
        let run = programs.run(Hook::UnderlayIngress, &carrying(&sent), 0);
        carried(&run, Outcome::Decapsulated, description);
        assert_eq!(run.packet, sent, "{description}");
    }
}

#[test]
fn lets_the_host_s_own_traffic_pass() {
    let other = Ipv4Addr::new(192, 168, 64, 77);
    let to_other = ipv4(PEER_IP.into(), other, IpNumber::UDP, udp(41000, PORT, &vxlan(8, VNI, &inner())));
    let good = outer(&vxlan(8, VNI, &inner()));
    let tcp = ipv4(PEER_IP.into(), OUR_IP.into(), IpNumber::TCP, vec![0x21; 40]);
    let table = vec![
        untouched("ARP", frame(HOST_MAC, ROUTER_MAC, EtherType::ARP, &[0; 28]), Outcome::NotVxlan),
        untouched("IPv6", frame(HOST_MAC, ROUTER_MAC, EtherType::IPV6, &[0x60; 60]), Outcome::NotVxlan),
        untouched(
            "VLAN tag",
            frame(HOST_MAC, ROUTER_MAC, EtherType::VLAN_TAGGED_FRAME, &[0; 80]),
            Outcome::NotVxlan,
        ),
        untouched("TCP", arrives(&tcp), Outcome::NotVxlan),
        untouched("another UDP port", with(37, 0x19), Outcome::NotVxlan),
        untouched("VXLAN to another address", arrives(&to_other), Outcome::NotVxlan),
        untouched(
            "another host's frame",
            frame(ROUTER_MAC, OUR_MAC, EtherType::IPV4, &good.bytes()),
            Outcome::NotVxlan,
        ),
    ];
    all_untouched(&mut Programs::load(), Hook::UnderlayIngress, table);
}

#[test]
fn leaves_the_odd_ones_to_the_kernel_device() {
    let good = carrying(&inner());
    let outer_good = outer(&vxlan(8, VNI, &inner()));
    let mut wrong_checksum = good.clone();
    wrong_checksum[24] ^= 1;
    let to_mac = |mac| carrying(&frame(mac, PEER_MAC, EtherType::IPV4, &inner()[14..]));
    let of_type = |ether_type, payload: &[u8]| carrying(&frame(OUR_MAC, PEER_MAC, ether_type, payload));
    let short = |payload: &[u8]| arrives(&outer(payload));
    let table = vec![
        untouched("another network", arrives(&outer(&vxlan(8, 2, &inner()))), Outcome::ForeignVni),
        untouched(
            "a VNI that differs in its upper byte",
            arrives(&outer(&vxlan(8, 0x10001, &inner()))),
            Outcome::ForeignVni,
        ),
        untouched("no VNI flag", arrives(&outer(&vxlan(0, VNI, &inner()))), Outcome::VxlanFlags),
        untouched("group policy", arrives(&outer(&vxlan(0x88, VNI, &inner()))), Outcome::VxlanFlags),
        untouched("outer options", arrives(&outer_good.clone().options([1, 1, 1, 0])), Outcome::OuterOptions),
        untouched(
            "first outer fragment",
            arrives(&outer_good.clone().fragment(0, true)),
            Outcome::OuterFragment,
        ),
        untouched(
            "later outer fragment",
            arrives(&outer_good.clone().fragment(185, false)),
            Outcome::OuterFragment,
        ),
        untouched("outer UDP checksum", with(41, 1), Outcome::OuterChecksum),
        untouched("wrong outer IP checksum", wrong_checksum, Outcome::OuterChecksum),
        untouched("trailing bytes", [good.as_slice(), &[0; 4]].concat(), Outcome::OuterLength),
        untouched("frame cut short", good[..good.len() - 1].to_vec(), Outcome::OuterLength),
        untouched("UDP shorter than IP", with(39, good[39] - 1), Outcome::OuterLength),
        Untouched {
            description: "aggregate",
            frame: good.clone(),
            gso_size: 20,
            outcome: Outcome::GsoAggregate,
        },
        untouched("no VXLAN header", short(&[8, 0, 0]), Outcome::Truncated),
        untouched(
            "no UDP header",
            arrives(&ipv4(PEER_IP.into(), OUR_IP.into(), IpNumber::UDP, vec![0; 4])),
            Outcome::Truncated,
        ),
        untouched("no inner frame", short(&vxlan(8, VNI, &[])), Outcome::Truncated),
        untouched("half an inner IP header", short(&vxlan(8, VNI, &inner()[..14 + 10])), Outcome::Truncated),
        untouched("for another VTEP", to_mac(ROUTER_MAC), Outcome::ForeignVtep),
        untouched("broadcast inside", to_mac([0xff; 6]), Outcome::ForeignVtep),
        untouched("ARP inside", of_type(EtherType::ARP, &[0; 28]), Outcome::NotIp),
        untouched("VLAN tag inside", of_type(EtherType::VLAN_TAGGED_FRAME, &[0; 60]), Outcome::NotIp),
        untouched("IP version 7 inside", of_type(EtherType::IPV4, &[0x75; 40]), Outcome::NotIp),
    ];
    all_untouched(&mut Programs::load(), Hook::UnderlayIngress, table);
}

#[test]
fn does_nothing_before_the_agent_has_written_its_facts() {
    let table = vec![untouched("a good packet", carrying(&inner()), Outcome::NoConfig)];
    all_untouched(&mut Programs::unconfigured(), Hook::UnderlayIngress, table);
}

/// Runs a table; what is unwrapped alone comes out as it was inside, what is delivered is one hop further.
fn check_unwrapped(programs: &mut Programs, table: Vec<Row>) {
    check(programs, Hook::UnderlayIngress, table, |run, sent| {
        let inner = &sent[50..];
        match run.outcome {
            Outcome::Delivered => assert_eq!(run.packet, hop(inner, POD_MAC, GATEWAY_MAC)),
            _ => assert_eq!(run.packet, inner),
        }
    });
}

/// A packet of the peer, which changes nothing that is known: what enters the stack is noted behind the vxlan device.
fn from_peer(description: &'static str, packet: &Ipv4, known: Flows, outcome: Outcome) -> Row {
    let sent = carrying(&frame(OUR_MAC, PEER_MAC, EtherType::IPV4, &packet.bytes()));
    row(description, sent, known.clone(), outcome, known)
}

#[test]
fn a_proven_flow_goes_to_its_pod() {
    let (datagram, segment) = (Way::Ingress.udp(b"payload"), Way::Ingress.tcp(|_| {}, b"payload"));
    let udp = |description, egress, ingress, outcome| {
        from_peer(description, &datagram, of_udp(flow(egress, ingress)), outcome)
    };
    let tcp = |description, egress, ingress, outcome| {
        from_peer(description, &segment, of_tcp(flow(egress, ingress)), outcome)
    };
    let table = vec![
        from_peer("a flow that nobody knows", &datagram, none(), Outcome::Decapsulated),
        udp("one before is still in the stack", UNKNOWN, [FRESH, NEVER], Outcome::Decapsulated),
        udp("only the other way is proven", PROVEN, UNKNOWN, Outcome::Decapsulated),
        udp("proven too long ago", PROVEN, OLD, Outcome::Decapsulated),
        udp("proven", UNKNOWN, PROVEN, Outcome::Delivered),
        udp("proven both ways", PROVEN, PROVEN, Outcome::Delivered),
        tcp("TCP, proven this way", UNKNOWN, PROVEN, Outcome::Decapsulated),
        tcp("TCP, proven both ways", PROVEN, PROVEN, Outcome::Delivered),
        tcp("TCP, the other way known for long", OLD, PROVEN, Outcome::Delivered),
        tcp("TCP, proven too long ago", PROVEN, OLD, Outcome::Decapsulated),
    ];
    check_unwrapped(&mut Programs::with_flow_cache(), table);
}

#[test]
fn of_a_proven_flow_too_the_stack_gets_what_is_its_own() {
    let (udp, tcp) = (|| of_udp(flow(PROVEN, PROVEN)), || of_tcp(flow(PROVEN, PROVEN)));
    let ping = Way::Ingress.packet(IpNumber::ICMP, vec![8, 0, 0, 0, 0, 1, 0, 1]);
    let good = || Way::Ingress.udp(b"x");
    let table = [
        ("two routers left", good().ttl(2), Outcome::Delivered),
        ("the last router", good().ttl(1), Outcome::Decapsulated),
        ("dead on arrival", good().ttl(0), Outcome::Decapsulated),
        ("as long as the pod's MTU", Way::Ingress.udp(&[1; POD_MTU - 28]), Outcome::Delivered),
        ("one byte longer", Way::Ingress.udp(&[1; POD_MTU - 28 + 1]), Outcome::Decapsulated),
        ("a fragment", good().fragment(0, true), Outcome::Decapsulated),
        ("IP options", good().options([0x94, 4, 0, 0]), Outcome::Decapsulated),
        ("a ping", ping, Outcome::Decapsulated),
    ];
    let gone = of_udp(moved(flow(PROVEN, PROVEN), |port| port.ifindex = 99));
    let gone = from_peer("a port that is gone", &good(), gone, Outcome::Decapsulated);
    let rows = table.map(|(description, packet, outcome)| from_peer(description, &packet, udp(), outcome));
    let controls = controls(Way::Ingress)
        .map(|(description, packet)| from_peer(description, &packet, tcp(), Outcome::Decapsulated));
    check_unwrapped(
        &mut Programs::with_flow_cache(),
        rows.into_iter().chain(controls).chain([gone]).collect(),
    );
}

#[test]
fn nothing_takes_the_shortcut_without_the_flow_cache() {
    let proven = of_udp(flow(PROVEN, PROVEN));
    let table = vec![from_peer("proven", &Way::Ingress.udp(b"x"), proven, Outcome::Decapsulated)];
    check_unwrapped(&mut Programs::load(), table);
}
