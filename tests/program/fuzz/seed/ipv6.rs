//! Good packets of IPv6, and packets of either family in a tunnel of the other.

use std::net::Ipv6Addr;

use etherparse::{EtherType, IpNumber};
use flannel_common::address::V6;
use flannel_common::outcome::Hook;

use super::{HOST_MAC, ROUTER_MAC, in_group};
use crate::packets::{Ipv6, frame, vxlan};
use crate::program::flow::sample::{GATEWAY_MAC, POD_MAC, PodSide};
use crate::program::ipv6::sample::{back, no_flows, out, tcp_back, tcp_out, udp_back, udp_out};
use crate::program::ipv6::underlay::{arrives, outer};
use crate::program::ipv6::{DIRECT_IP, DIRECT_SUBNET, ENDED_SUBNET, OUR_SUBNET, PEER_IP, PEER_MAC};
use crate::program::{OUR_MAC6, VNI};

/// Other addresses: in a lease that has just ended, on the uplink's link, in this node's own subnet, in no lease, link-local.
const OTHERS: [V6; 6] = [
    ENDED_SUBNET,
    DIRECT_SUBNET,
    OUR_SUBNET,
    Ipv6Addr::new(0xfd44, 0, 0, 0x77, 0, 0, 0, 7).octets(),
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2).octets(),
    Ipv6Addr::UNSPECIFIED.octets(),
];

/// Returns all of them.
pub(super) fn all() -> Vec<(Hook, Vec<u8>)> {
    let sent = packets(udp_out, tcp_out, out, |packet, other| packet.header.destination = other);
    let received = packets(udp_back, tcp_back, back, |packet, other| packet.header.source = other);
    let framed = |to: [u8; 6], from: [u8; 6], packets: &[Ipv6]| {
        let frames = packets.iter().map(|packet| frame(to, from, EtherType::IPV6, &packet.bytes()));
        frames.collect::<Vec<_>>()
    };
    let inner = framed(OUR_MAC6, PEER_MAC, &received);
    let at = |hook, frames: Vec<Vec<u8>>| frames.into_iter().map(move |frame| (hook, frame));
    at(Hook::OverlayEgress, framed(PEER_MAC, OUR_MAC6, &sent))
        .chain(at(Hook::PodEgress, framed(GATEWAY_MAC, POD_MAC, &sent)))
        .chain(at(Hook::PodIngress, framed(POD_MAC, GATEWAY_MAC, &received)))
        .chain(at(Hook::UnderlayEgress, framed(ROUTER_MAC, HOST_MAC, &sent)))
        .chain(at(Hook::UnderlayIngress, framed(HOST_MAC, ROUTER_MAC, &received)))
        .chain(at(Hook::UnderlayIngress, inner.iter().flat_map(|frame| wrapped(frame)).collect()))
        .chain(super::wrapped(&inner[0]))
        .chain([(Hook::UnderlayIngress, of_ipv4())])
        .chain(at(Hook::OverlayIngress, inner))
        .collect()
}

/// Makes packets between pods, and with other addresses (`elsewhere` sets them).
fn packets(
    udp: impl Fn(&[u8]) -> Ipv6,
    tcp: impl Fn(&[u8]) -> Ipv6,
    of: impl Fn(IpNumber, Vec<u8>) -> Ipv6,
    elsewhere: impl Fn(&mut Ipv6, V6),
) -> Vec<Ipv6> {
    let ping = of(IpNumber::IPV6_ICMP, vec![128, 0, 0, 0, 0, 1, 0, 1]);
    let mut packets = vec![
        udp(b"payload"),
        udp(&[0xab; 1100]),
        udp(&[0xab; 1250]),
        udp(b"").traffic_class(0xb8 | 2),
        udp(b"x").traffic_class(1),
        udp(b"x").hop_limit(1),
        tcp(b"payload"),
        tcp(&[0xcd; 1000]),
        of(IpNumber::SCTP, vec![0; 32]),
        of(IpNumber::UDP, vec![]),
    ];
    packets.extend(no_flows(udp(b"x"), ping).map(|(_, packet)| packet));
    // FIN, SYN, RST.
    packets.extend([1, 2, 4].map(|flag| {
        let mut segment = tcp(b"");
        segment.payload[13] |= flag;
        segment
    }));
    packets.extend(OTHERS.map(|other| {
        let mut packet = udp(b"x");
        elsewhere(&mut packet, other);
        packet
    }));
    packets
}

/// Wraps a frame: as a peer sends it, also through a congested router, in a group or after extension headers, and as another
/// peer would.
pub(super) fn wrapped(inner: &[u8]) -> Vec<Vec<u8>> {
    let by = |sender: V6| outer(sender.into(), &vxlan(8, VNI, inner));
    let packets = [
        by(PEER_IP),
        by(PEER_IP).traffic_class(1),
        by(PEER_IP).traffic_class(3),
        by(PEER_IP).extended(60, vec![0, 0, 1, 4, 0, 0, 0, 0]),
        by(PEER_IP).extended(44, vec![0, 0, 0, 1, 0, 0, 0, 1]),
        by(DIRECT_IP),
        by(DIRECT_IP).extended(44, vec![0, 0, 0, 1, 0, 0, 0, 1]).extended(0, vec![0, 0, 1, 4, 0, 0, 0, 0]),
        outer(PEER_IP.into(), &in_group(inner)),
    ];
    packets.iter().map(arrives).collect()
}

/// Makes an IPv4 packet in an IPv6 tunnel.
fn of_ipv4() -> Vec<u8> {
    let inner = frame(OUR_MAC6, PEER_MAC, EtherType::IPV4, &PodSide::Ingress.udp(b"x").bytes());
    arrives(&outer(PEER_IP.into(), &vxlan(8, VNI, &inner)))
}
