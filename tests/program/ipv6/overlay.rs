//! Both directions through the vxlan device.

use etherparse::{EtherType, IpNumber};
use flannel_common::address::V6;
use flannel_common::outcome::{Hook, Outcome};

use super::super::flow::sample::{GATEWAY_MAC, POD_MAC};
use super::super::flow::{Flows, LOST, NOW, OLD, POD_MTU, PROVEN, UNKNOWN, check, flow, none, row};
use super::super::{OUR_MAC6, Programs};
use super::sample::{POD, back, hop, no_flows, of_tcp, of_udp, out, tcp_back, tcp_out, udp_back, udp_out};
use super::{DIRECT_SUBNET, ENDED_SUBNET, OUR_SUBNET, PEER_IP, PEER_MAC};
use crate::packets::{Ipv6, frame, ipv6};

/// Indexes of the pod's port and of the bridge.
const PORT: u32 = 1;
const BRIDGE: u32 = 5;

fn to_peer(packet: &Ipv6) -> Vec<u8> {
    frame(PEER_MAC, OUR_MAC6, EtherType::IPV6, &packet.bytes())
}

#[test]
fn a_packet_to_a_peer_is_noted_and_left_to_the_kernel() {
    let ping = out(IpNumber::IPV6_ICMP, vec![128, 0, 0, 0, 0, 1, 0, 1]);
    let left = flow(NOW, UNKNOWN);
    let (udp, tcp) = (to_peer(&udp_out(b"x")), to_peer(&tcp_out(b"x")));
    let one = |description, frame: &[u8], before, after| {
        row(description, frame.to_vec(), before, Outcome::InnerIpv6, after).from(BRIDGE)
    };
    let mut table = vec![
        one("the first one", &udp, none(), of_udp(left)),
        one("TCP", &tcp, none(), of_tcp(left)),
        one("it was not noted", &udp, none(), none()).not_noted(),
        one("it entered too long ago", &udp, none(), none()).entered(|record| record.at = LOST),
        one("of a flow that was proven", &udp, of_udp(flow(OLD, PROVEN)), of_udp(flow(NOW, PROVEN))),
    ];
    let known = || of_udp(flow(PROVEN, PROVEN));
    table.extend(
        no_flows(udp_out(b"x"), ping).map(|(what, packet)| one(what, &to_peer(&packet), known(), known())),
    );
    check(&mut Programs::with_flow_cache(), Hook::OverlayEgress, table, |_, _| {
        unreachable!("BPF wraps no IPv6")
    });
}

#[test]
fn a_packet_that_has_skipped_the_stack_proves_nothing() {
    let proven = of_udp(flow(PROVEN, PROVEN));
    let sent = || to_peer(&udp_out(b"x"));
    let table = vec![
        row("straight from the pod's port", sent(), proven.clone(), Outcome::AfterShortcut, proven.clone())
            .from(PORT),
        row("through the bridge", sent(), proven.clone(), Outcome::InnerIpv6, of_udp(flow(NOW, PROVEN)))
            .from(BRIDGE),
        row("of an unknown flow", sent(), none(), Outcome::InnerIpv6, of_udp(flow(NOW, UNKNOWN))).from(PORT),
    ];
    check(&mut Programs::with_flow_cache(), Hook::OverlayEgress, table, |_, _| {
        unreachable!("BPF wraps no IPv6")
    });
}

#[test]
fn a_packet_to_no_peer_is_passed_on() {
    let multicast = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let to = |address: [u8; 16]| {
        let mut address = address;
        address[15] |= 1;
        to_peer(&ipv6(POD, address.into(), IpNumber::UDP, vec![0; 8]))
    };
    let other_mac = frame([9; 6], OUR_MAC6, EtherType::IPV6, &udp_out(b"x").bytes());
    let table = [
        ("this node's own subnet", to(OUR_SUBNET), Outcome::NoLease),
        ("a lease that has just ended", to(ENDED_SUBNET), Outcome::Unleased),
        (
            "a node's own address",
            to_peer(&ipv6(POD, PEER_IP.into(), IpNumber::UDP, vec![0; 8])),
            Outcome::NoLease,
        ),
        ("multicast", to(multicast), Outcome::NoLease),
        ("another MAC than the lease's", other_mac, Outcome::ForeignVtep),
        (
            "a peer on the link, by another route",
            frame([6; 6], OUR_MAC6, EtherType::IPV6, &to(DIRECT_SUBNET)[14..]),
            Outcome::InnerIpv6,
        ),
    ];
    let rows = table.map(|(description, frame, outcome)| {
        row(description, frame, none::<V6>(), outcome, none()).not_noted()
    });
    check(&mut Programs::with_flow_cache(), Hook::OverlayEgress, rows.into(), |_, _| {
        unreachable!("BPF wraps no IPv6")
    });
}

#[test]
fn an_unwrapped_packet_goes_to_its_pod_or_enters_the_stack() {
    let received = |packet: &Ipv6| frame(OUR_MAC6, PEER_MAC, EtherType::IPV6, &packet.bytes());
    let ping = back(IpNumber::IPV6_ICMP, vec![128, 0, 0, 0, 0, 1, 0, 1]);
    let proven = flow(PROVEN, PROVEN);
    let one = |description, packet: Ipv6, known: Flows<V6>, outcome| {
        row(description, received(&packet), known.clone(), outcome, known)
    };
    let too_long = udp_back(&[1; POD_MTU - 47]);
    let mut table = vec![
        one("the first one", udp_back(b"x"), none(), Outcome::FlowNew).noted(),
        one("proven", udp_back(b"x"), of_udp(proven), Outcome::Delivered),
        one("proven too long ago", udp_back(b"x"), of_udp(flow(PROVEN, OLD)), Outcome::FlowStale).noted(),
        one("TTL 1", udp_back(b"x").hop_limit(1), of_udp(proven), Outcome::TtlExpired).noted(),
        one("longer than the pod's MTU", too_long, of_udp(proven), Outcome::TooBig).noted(),
        one("an aggregate", tcp_back(&[1; 3000]), of_tcp(proven), Outcome::Delivered).gso(POD_MTU - 60),
        one("an aggregate, too long", tcp_back(&[1; 3000]), of_tcp(proven), Outcome::TooBig)
            .gso(POD_MTU - 59)
            .noted(),
    ];
    table.extend(
        no_flows(udp_back(b"x"), ping)
            .map(|(what, packet)| one(what, packet, of_udp(proven), Outcome::NotCacheable)),
    );
    check(&mut Programs::with_flow_cache(), Hook::OverlayIngress, table, |run, sent| {
        assert_eq!(run.packet, hop(sent, POD_MAC, GATEWAY_MAC));
    });
}
