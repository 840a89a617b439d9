//! DirectRouting: flows to and from peers on the uplink's link, without a tunnel.

use etherparse::{EtherType, IpNumber};
use flannel_common::lease::{DIRECT, Lease};
use flannel_common::node::FLOOR_UNWRAPS;
use flannel_common::outcome::{Hook, Outcome};

use super::flow::sample::{GATEWAY_MAC, POD, POD_MAC, PodSide, controls, hop, no_flows};
use super::flow::{
    Flows, LOST, NEIGHBOUR_MAC, NOW, OLD, PROVEN, Row, UNKNOWN, changed, check, check_off, flow, none,
    of_tcp, of_udp, row,
};
use super::{OUR_IP, OUR_MAC, OUR_SUBNET, PEER_IP, PEER_MAC, Programs, TC_ACT_UNSPEC, VNI};
use crate::packets::{Ipv4, PORT, frame, ipv4, udp, vxlan};

/// MAC of this node's uplink.
const HOST_MAC: [u8; 6] = [0; 6];

fn sent(packet: &Ipv4) -> Vec<u8> {
    frame(GATEWAY_MAC, POD_MAC, EtherType::IPV4, &packet.bytes())
}

fn leaving(packet: &Ipv4) -> Vec<u8> {
    frame(NEIGHBOUR_MAC, HOST_MAC, EtherType::IPV4, &packet.bytes())
}

fn arriving(packet: &Ipv4) -> Vec<u8> {
    frame(HOST_MAC, NEIGHBOUR_MAC, EtherType::IPV4, &packet.bytes())
}

/// Loads the programs, with a peer on the link.
fn programs(direct_routing: u32) -> Programs {
    let mut programs =
        Programs::configured(|node| (node.flow_cache, node.direct_routing) = (1, direct_routing));
    programs.lease(
        24,
        [10, 1, 15, 0],
        Lease { public_ip: PEER_IP, vtep_mac: PEER_MAC, flags: DIRECT, route_mtu: 0 },
    );
    programs
}

fn check_sent(table: Vec<Row>) {
    check(&mut programs(1), Hook::PodEgress, table, |run, sent| {
        assert_eq!(run.packet, hop(sent, NEIGHBOUR_MAC, HOST_MAC));
    });
}

fn check_leaving(table: Vec<Row>) {
    check(&mut programs(1), Hook::UnderlayEgress, table, |_, _| unreachable!("this program carries nothing"));
}

fn check_arriving(table: Vec<Row>) {
    check(&mut programs(1), Hook::UnderlayIngress, table, |run, arrived| {
        assert_eq!(run.packet, hop(arrived, POD_MAC, GATEWAY_MAC));
    });
}

#[test]
fn a_proven_flow_leaves_without_a_tunnel() {
    let packet = || sent(&PodSide::Egress.udp(b"payload"));
    let same =
        |description, frame, flows: Flows, outcome| row(description, frame, flows.clone(), outcome, flows);
    let proven = || of_udp(flow(PROVEN, PROVEN));
    let of_length = |length: usize| sent(&PodSide::Egress.udp(&vec![0; length - 28]));
    check_sent(vec![
        same("the first one", packet(), none(), Outcome::FlowNew).noted(),
        same("proven", packet(), of_udp(flow(PROVEN, UNKNOWN)), Outcome::OnLink),
        same("proven too long ago", packet(), of_udp(flow(OLD, PROVEN)), Outcome::FlowStale).noted(),
        same("as long as the MTU of the uplink", of_length(1500), proven(), Outcome::OnLink),
        same("one byte too long", of_length(1501), proven(), Outcome::TooBig),
        same("TTL 1", sent(&PodSide::Egress.udp(b"x").ttl(1)), proven(), Outcome::TtlExpired),
    ]);
}

#[test]
fn a_packet_that_leaves_the_stack_at_the_uplink_proves_its_flow() {
    let packet = || leaving(&PodSide::Egress.udp(b"payload"));
    let proof =
        |description, before, after| row(description, packet(), before, Outcome::FlowProven, of_udp(after));
    let same = |description, flows: Flows| row(description, packet(), flows.clone(), Outcome::NoFlow, flows);
    let (proven, left) = (|| of_udp(flow(PROVEN, PROVEN)), flow(NOW, UNKNOWN));
    let segment = leaving(&PodSide::Egress.tcp(|_| {}, b"payload"));
    check_leaving(vec![
        proof("the first one", none(), left),
        proof("after a long time", of_udp(flow(OLD, PROVEN)), flow(NOW, PROVEN)),
        row("TCP", segment, none(), Outcome::FlowProven, of_tcp(left)),
        row(
            "a packet that the stack has changed",
            packet(),
            proven(),
            Outcome::NoFlow,
            of_udp(changed(flow(NOW, PROVEN), [true, false])),
        )
        .token(0x1234),
        same("it was not noted", none()).not_noted(),
        same("it was not noted, of a proven flow", proven()).not_noted(),
        same("it entered too long ago", none()).entered(|record| record.at = LOST),
        row("a packet that has skipped the stack", packet(), proven(), Outcome::AfterShortcut, proven())
            .from(1),
        proof("a packet through the bridge", proven(), flow(NOW, PROVEN)).from(5),
    ]);
    let begins_or_ends = |(description, packet)| {
        let known = of_tcp(flow(PROVEN, PROVEN));
        row(description, leaving(&packet), known, Outcome::NoFlow, none())
    };
    check_leaving(controls(PodSide::Egress).map(begins_or_ends).into());
}

#[test]
fn other_traffic_that_leaves_the_uplink_is_passed_on() {
    let to = |address: [u8; 4]| leaving(&ipv4(POD, address.into(), IpNumber::UDP, udp(40000, 53, b"x")));
    check_leaving(no_flows(PodSide::Egress, |ether_type, payload| {
        frame(NEIGHBOUR_MAC, HOST_MAC, ether_type, payload)
    }));
    let table = [
        ("the peer itself, as for packets in the tunnel", PEER_IP),
        ("a pod behind a tunnel", [10, 1, 15, 130]),
        ("a pod that is not leased", [10, 1, 99, 9]),
        ("an address outside the network", [203, 0, 113, 1]),
    ];
    let rows =
        table.map(|(description, address)| row(description, to(address), none(), Outcome::NotOnLink, none()));
    check_leaving(rows.into());
    check_off(Hook::UnderlayEgress, &leaving(&PodSide::Egress.udp(b"x")));
}

#[test]
fn a_proven_flow_arrives_without_a_tunnel() {
    let packet = || arriving(&PodSide::Ingress.udp(b"payload"));
    let (known, proven) = (of_udp(flow(UNKNOWN, PROVEN)), of_tcp(flow(PROVEN, PROVEN)));
    let segment = arriving(&PodSide::Ingress.tcp(|_| {}, b"payload"));
    check_arriving(vec![
        row("the first one", packet(), none(), Outcome::FlowNew, none()).noted(),
        row("proven", packet(), known.clone(), Outcome::Delivered, known),
        row("TCP", segment.clone(), proven.clone(), Outcome::Delivered, proven.clone()),
        row("an aggregate", segment, proven.clone(), Outcome::Delivered, proven).gso(4),
        row(
            "proven too long ago",
            packet(),
            of_udp(flow(PROVEN, OLD)),
            Outcome::FlowStale,
            of_udp(flow(PROVEN, OLD)),
        )
        .noted(),
    ]);
}

#[test]
fn a_packet_that_is_not_from_a_pod_on_the_link_is_passed_on() {
    let from = |source: [u8; 4], destination: [u8; 4]| {
        arriving(&ipv4(source.into(), destination.into(), IpNumber::UDP, udp(53, 40000, b"x")))
    };
    let peers_pod = [10, 1, 15, 7];
    let table = [
        ("a pod behind a tunnel", from([10, 1, 15, 130], POD.octets())),
        ("the peer itself", from(PEER_IP, POD.octets())),
        ("a pod of this node", from([10, 1, 90, 9], POD.octets())),
        ("an unknown address", from([203, 0, 113, 1], POD.octets())),
        ("to the host", from(peers_pod, OUR_IP)),
        ("to a pod of another node", from(peers_pod, [10, 1, 15, 130])),
        ("a frame for another host", leaving(&PodSide::Ingress.udp(b"x"))),
        ("ARP", frame(HOST_MAC, NEIGHBOUR_MAC, EtherType::ARP, &[0; 28])),
    ];
    let rows = table.map(|(description, frame)| row(description, frame, none(), Outcome::NotVxlan, none()));
    check_arriving(rows.into());
    assert_eq!(OUR_SUBNET[..3], POD.octets()[..3]);
    let good: Row =
        row("no direct routing", arriving(&PodSide::Ingress.udp(b"x")), none(), Outcome::NotVxlan, none());
    check(&mut programs(0), Hook::UnderlayIngress, vec![good], |_, _| unreachable!("nothing is carried"));
}

#[test]
fn a_packet_without_a_tunnel_is_left_to_the_stack_where_others_must_see_it() {
    let mut programs = programs(1);
    programs.set_node(|node| (node.flow_cache, node.direct_routing, node.floor) = (1, 1, FLOOR_UNWRAPS));
    let known = of_udp(flow(UNKNOWN, PROVEN));
    let packet = arriving(&PodSide::Ingress.udp(b"payload"));
    let rows = vec![row("a proven flow", packet, known.clone(), Outcome::Obstructed, known)];
    check(&mut programs, Hook::UnderlayIngress, rows, |_, _| unreachable!("nothing is carried"));
}

#[test]
fn vxlan_between_pods_is_not_checked() {
    let forged = ipv4([203, 0, 113, 1].into(), POD, IpNumber::UDP, udp(53, 40000, b"x"));
    let forged = vxlan(8, VNI, &frame(OUR_MAC, PEER_MAC, EtherType::IPV4, &forged.bytes()));
    let packet = arriving(&PodSide::Ingress.packet(IpNumber::UDP, udp(40001, PORT, &forged)));
    let mut programs = programs(1);
    let run = programs.run(Hook::UnderlayIngress, &packet, 0);
    assert_eq!((run.outcome, run.action, run.packet), (Outcome::FlowNew, TC_ACT_UNSPEC, packet));
}
