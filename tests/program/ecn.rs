//! ECN and TTL: congestion marks of the outer header reach the inner packet (RFC 6040).

use etherparse::{EtherType, IpNumber, Ipv4Header, SlicedPacket};
use flannel_common::outcome::{Hook, Outcome};

use super::flow::sample::{GATEWAY_MAC, POD_MAC, PodSide, hop};
use super::flow::{PROVEN, Row, check, flow, of_udp, row};
use super::{OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Programs, RunResult, TC_ACT_SHOT, VNI, carried};
use crate::packets::{Ipv4, PORT, frame, ipv4, udp, vxlan};

const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;
const DROPPED: Option<u8> = None;
const DSCP: u8 = 46;
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// Inner code point, and what decapsulation makes of it with the outer ones of [`OUTER`].
const TABLE: [(u8, [Option<u8>; 4]); 4] = [
    (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), DROPPED]),
    (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
    (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
    (CE, [Some(CE); 4]),
];
const OUTER: [u8; 4] = [NOT_ECT, ECT_0, ECT_1, CE];

/// Returns all sixteen combinations: outer and inner code point, and the result.
pub(super) fn combinations() -> impl Iterator<Item = (u8, u8, Option<u8>)> {
    TABLE.into_iter().flat_map(|(inner, row)| {
        OUTER.into_iter().zip(row).map(move |(outer, expected)| (outer, inner, expected))
    })
}

fn inside(packet: &Ipv4) -> Vec<u8> {
    frame(OUR_MAC, PEER_MAC, EtherType::IPV4, &packet.bytes())
}

/// Wraps the packet as it arrives on the uplink. A test run's interface has the MAC 00:00:00:00:00:00.
fn arrives(packet: &Ipv4, outer_code_point: u8) -> Vec<u8> {
    let payload = udp(41000, PORT, &vxlan(8, VNI, &inside(packet)));
    let outer = ipv4(PEER_IP.into(), OUR_IP.into(), IpNumber::UDP, payload).tos(10, outer_code_point);
    frame([0; 6], ROUTER_MAC, EtherType::IPV4, &outer.bytes())
}

#[test]
fn outer_congestion_marks_the_inner_packet() {
    let mut programs = Programs::load();
    let sent = || PodSide::Ingress.udp(b"payload").ttl(17);
    let with_options = || sent().options([0x94, 4, 0, 0]);
    for (outer, inner, expected) in combinations() {
        for packet in [sent(), with_options(), sent().fragment(185, false)] {
            let arrived = arrives(&packet.clone().tos(DSCP, inner), outer);
            let run = programs.run(Hook::UnderlayIngress, &arrived, 0);
            let what = format!("outer {outer:02b}, inner {inner:02b}");
            let Some(code_point) = expected else {
                assert_eq!((run.outcome, run.action), (Outcome::NotEcnCapable, TC_ACT_SHOT), "{what}");
                continue;
            };
            carried(&run, Outcome::Decapsulated, &what);
            assert_eq!(run.packet, inside(&packet.tos(DSCP, code_point)), "{what}");
        }
    }
}

#[test]
fn outer_congestion_marks_a_packet_that_skips_the_stack() {
    let known = || of_udp(flow(PROVEN, PROVEN));
    let rows = combinations().filter_map(|(outer, inner, expected)| {
        let arrived = arrives(&PodSide::Ingress.udp(b"payload").tos(DSCP, inner), outer);
        expected.map(|_| row("proven", arrived, known(), Outcome::Delivered, known()))
    });
    let code_point = |frame: &[u8]| Ipv4Header::from_slice(&frame[14..]).unwrap().0.ecn.value();
    let check_result = |run: &RunResult, arrived: &[u8]| {
        let (outer, inner) = (code_point(arrived), code_point(&arrived[50..]));
        let (.., expected) =
            combinations().find(|(o, i, _)| (*o, *i) == (outer, inner)).expect("a combination");
        let merged =
            inside(&PodSide::Ingress.udp(b"payload").tos(DSCP, expected.expect("it is not dropped")));
        assert_eq!(run.packet, hop(&merged, POD_MAC, GATEWAY_MAC), "outer {outer:02b}, inner {inner:02b}");
    };
    check(&mut Programs::with_flow_cache(), Hook::UnderlayIngress, rows.collect::<Vec<Row>>(), check_result);
}

#[test]
fn a_wrong_inner_checksum_stays_wrong() {
    let mut arrived = arrives(&PodSide::Ingress.udp(b"payload").tos(0, ECT_0), CE);
    let checksum = 14 + 36 + 14 + 10;
    arrived[checksum] ^= 1;
    let run = Programs::load().run(Hook::UnderlayIngress, &arrived, 0);
    carried(&run, Outcome::Decapsulated, "a wrong checksum inside");
    let (header, _) = Ipv4Header::from_slice(&run.packet[14..]).unwrap();
    assert_eq!(header.ecn.value(), CE);
    assert_ne!(header.header_checksum, header.calc_header_checksum());
}

#[test]
fn congestion_is_not_read_if_the_kernel_unwraps_the_packet() {
    let mut programs = Programs::load();
    let elsewhere = frame(ROUTER_MAC, PEER_MAC, EtherType::IPV4, &PodSide::Ingress.udp(b"x").bytes());
    let outer = ipv4(PEER_IP.into(), OUR_IP.into(), IpNumber::UDP, udp(1, PORT, &vxlan(8, VNI, &elsewhere)));
    let congested = frame([0; 6], ROUTER_MAC, EtherType::IPV4, &outer.tos(0, CE).bytes());
    let run = programs.run(Hook::UnderlayIngress, &congested, 0);
    assert_eq!((run.outcome, run.packet), (Outcome::ForeignVtep, congested));
}

#[test]
fn outer_packets_have_the_configured_ttl() {
    for ttl in [1, 64, 255] {
        let mut programs = Programs::configured(|node| node.ttl = ttl);
        let sent = frame(PEER_MAC, OUR_MAC, EtherType::IPV4, &PodSide::Egress.udp(b"x").ttl(3).bytes());
        let run = programs.run(Hook::OverlayEgress, &sent, 0);
        carried(&run, Outcome::Encapsulated, "TTL");
        let sliced = SlicedPacket::from_ethernet(&run.packet).unwrap();
        let Some(etherparse::NetSlice::Ipv4(ip)) = &sliced.net else {
            panic!("the outer packet is not IPv4")
        };
        assert_eq!(u32::from(ip.header().ttl()), ttl);
        assert_eq!(run.packet[run.packet.len() - sent.len()..], sent, "the inner TTL stays");
    }
}
