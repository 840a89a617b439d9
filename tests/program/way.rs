//! The way of a proven flow to its peer: MTU and next hop are those of the time when it was proven.

use aya::maps::Array;
use etherparse::{EtherType, IpNumber};
use flannel_common::abi;
use flannel_common::address::V4;
use flannel_common::flow::{Flow, Way};
use flannel_common::lease::{DIRECT, Lease};
use flannel_common::outcome::{Hook, Outcome};

use super::flow::sample::{GATEWAY_MAC, POD_MAC, PodSide, hop};
use super::flow::{NOW, PROVEN, Row, UNKNOWN, check, flow, none, now, of_udp, row};
use super::overlay_egress::{to_peer, unwrapped};
use super::{OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Programs, UPLINK_MTU};
use crate::packets::{frame, ipv4};

const NEXT_HOP_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 8];

fn datagram(length: usize) -> Vec<u8> {
    let packet = PodSide::Egress.udp(&vec![0; length - 28]);
    frame(GATEWAY_MAC, POD_MAC, EtherType::IPV4, &packet.bytes())
}

fn by(change: impl FnOnce(&mut Way<V4>)) -> Flow<V4> {
    let mut way = Way { public_ip: PEER_IP, vtep_mac: PEER_MAC, mtu: UPLINK_MTU, ..Way::default() };
    change(&mut way);
    Flow { way, ..flow(PROVEN, PROVEN) }
}

fn sent(description: &'static str, length: usize, flow: Flow<V4>, outcome: Outcome) -> Row {
    row(description, datagram(length), of_udp(flow), outcome, of_udp(flow))
}

#[test]
fn a_packet_leaves_with_the_macs_of_the_next_hop() {
    let known = |flags| {
        by(|way| {
            (way.next_hop_mac, way.uplink_mac, way.flags) = (NEXT_HOP_MAC, UPLINK_MAC, flags);
        })
    };
    let hook = Hook::PodEgress;
    let table = vec![sent("through the tunnel", 100, known(0), Outcome::Encapsulated)];
    check(&mut Programs::with_flow_cache(), hook, table, |run, sent| {
        assert_eq!(run.packet[..14], frame(NEXT_HOP_MAC, UPLINK_MAC, EtherType::IPV4, &[]));
        assert_eq!(unwrapped(&run.packet, PEER_IP, 0), hop(sent, PEER_MAC, OUR_MAC));
    });
    let mut programs = Programs::configured(|node| (node.flow_cache, node.direct_routing) = (1, 1));
    let table = vec![sent("on the link", 100, known(DIRECT), Outcome::OnLink)];
    check(&mut programs, hook, table, |run, sent| {
        assert_eq!(run.packet, hop(sent, NEXT_HOP_MAC, UPLINK_MAC));
    });
}

#[test]
fn a_packet_fits_the_mtu_of_the_way() {
    const OUTER: usize = 20 + 8 + 8 + 14;
    let narrow = || by(|way| way.mtu = 1400);
    let table = vec![
        sent("as long as the path takes", 1400 - OUTER, narrow(), Outcome::Encapsulated),
        sent("one byte more", 1401 - OUTER, narrow(), Outcome::TooBig),
        sent("without a way", 100, by(|way| way.mtu = 0), Outcome::Unleased).noted(),
    ];
    // Nothing leads to the peer, whose lease would give the last row a way.
    let mut programs = Programs::with_flow_cache();
    programs.lease(24, [10, 1, 15, 0], Lease { public_ip: [0; 4], vtep_mac: [0; 6], flags: 4, route_mtu: 0 });
    check(&mut programs, Hook::PodEgress, table, |_, _| {});
}

#[test]
fn a_packet_that_the_stack_has_sent_through_the_tunnel_leads_there_whatever_the_lease_says() {
    // The stack's route is still, or already, that through the tunnel.
    let lease = Lease { public_ip: PEER_IP, vtep_mac: PEER_MAC, flags: DIRECT, route_mtu: 0 };
    let left = Flow { way: by(|_| {}).way, ..flow(NOW, UNKNOWN) };
    let packet = to_peer(&PodSide::Egress.udp(b"x"));
    let table = vec![row("a direct lease", packet, none(), Outcome::Encapsulated, of_udp(left))];
    let mut programs = Programs::configured(|node| (node.flow_cache, node.direct_routing) = (1, 1));
    programs.lease(24, [10, 1, 15, 0], lease);
    check(&mut programs, Hook::OverlayEgress, table, |_, _| {});
}

#[test]
fn a_message_that_a_packet_was_too_big_is_noted() {
    let message = |kind, code| {
        let packet = ipv4(PEER_IP.into(), OUR_IP.into(), IpNumber::ICMP, vec![kind, code, 0, 0, 0, 0, 5, 20]);
        frame([0; 6], NEXT_HOP_MAC, EtherType::IPV4, &packet.bytes())
    };
    let mut programs = Programs::with_flow_cache();
    for hook in [Hook::UnderlayIngress, Hook::SideIngress] {
        for (kind, code, is_noted) in [(8, 0, false), (3, 3, false), (3, 4, true)] {
            set_too_big(&mut programs, 0);
            let before = now();
            let rows = vec![row("ICMP", message(kind, code), none::<V4>(), Outcome::NotVxlan, none())];
            check(&mut programs, hook, rows, |_, _| {});
            assert_eq!(too_big(&programs) >= before, is_noted, "{hook:?}, type {kind}, code {code}");
        }
    }
}

fn too_big(programs: &Programs) -> u64 {
    Array::try_from(programs.0.map(abi::TOO_BIG).unwrap()).unwrap().get(&0, 0).unwrap()
}

pub(super) fn set_too_big(programs: &mut Programs, time: u64) {
    let map = programs.0.map_mut(abi::TOO_BIG).unwrap();
    Array::<_, u64>::try_from(map).unwrap().set(0, time, 0).unwrap();
}
