//! Good packets of every kind, with their hooks.

mod ipv6;
mod service;

use std::net::Ipv4Addr;

use etherparse::{EtherType, IpNumber};
use flannel_common::address::{V4, V6};
use flannel_common::outcome::Hook;

use super::{GROUP, ON_LINK_PODS};
use crate::packets::{Ipv4, PORT, frame, ipv4, udp, vxlan};
use crate::program::flow::sample::{GATEWAY_MAC, POD, POD_MAC, PodSide, REMOTE, controls};
use crate::program::{INNER_PEER_IP, OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, VNI};

/// MAC of the interface that test runs receive on, which is loopback.
const HOST_MAC: [u8; 6] = [0; 6];
/// Another address of this node, as far as programs know.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(172, 31, 9, 1);
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// Addresses in a part of the peer's subnet that another peer holds, in no lease, and in a lease that has just ended.
const OTHERS: [Ipv4Addr; 3] =
    [Ipv4Addr::new(10, 1, 15, 200), Ipv4Addr::new(10, 1, 77, 7), Ipv4Addr::new(10, 1, 16, 7)];

/// Returns all of them.
pub(super) fn all() -> Vec<(Hook, Vec<u8>)> {
    let (out, inwards) = (payloads(PodSide::Egress), payloads(PodSide::Ingress));
    let at = |hook, to: [u8; 6], from: [u8; 6], payloads: &[(EtherType, Vec<u8>)]| {
        let framed = payloads.iter().map(|(kind, payload)| (hook, frame(to, from, *kind, payload)));
        framed.collect::<Vec<_>>()
    };
    let received = at(Hook::OverlayIngress, OUR_MAC, PEER_MAC, &inwards);
    let received_udp = received[0].1.clone();
    [
        at(Hook::OverlayEgress, PEER_MAC, OUR_MAC, &out),
        at(Hook::PodEgress, GATEWAY_MAC, POD_MAC, &out),
        at(Hook::PodIngress, POD_MAC, GATEWAY_MAC, &inwards),
        at(Hook::UnderlayEgress, ROUTER_MAC, HOST_MAC, &out),
        at(Hook::UnderlayIngress, HOST_MAC, ROUTER_MAC, &inwards),
        received.iter().flat_map(|(_, inner)| wrapped(inner)).collect(),
        received,
        unusual(&received_udp),
        forged(),
        strays(&received_udp),
        ipv6::all(),
        translated(),
        vec![(Hook::UnderlayIngress, frame(HOST_MAC, ROUTER_MAC, EtherType::ARP, &[0; 28]))],
    ]
    .concat()
}

/// Returns those of flows that the stack translates.
pub(super) fn translated() -> Vec<(Hook, Vec<u8>)> {
    let frames = |inner: &[u8]| wrapped(inner).into_iter().map(|(_, frame)| frame).collect();
    let (v4, v6) = ON_LINK_PODS;
    [service::all::<V4>(v4, frames), service::all::<V6>(v6, ipv6::wrapped)].concat()
}

/// Makes packets between pods: EtherType and content.
fn payloads(side: PodSide) -> Vec<(EtherType, Vec<u8>)> {
    let ping = || side.packet(IpNumber::ICMP, vec![8, 0, 0, 0, 0, 1, 0, 1]);
    let mut packets = vec![
        side.udp(b"payload"),
        side.udp(&[0xab; 1400]),
        side.udp(b"").tos(46, 2),
        side.udp(&[7; 64]).fragment(0, true),
        side.udp(&[7; 64]).fragment(185, false),
        side.udp(&[7; 64]).options([0x94, 4, 0, 0]),
        side.tcp(|_| {}, b"payload"),
        side.tcp(|_| {}, &[0xcd; 1300]),
        side.packet(IpNumber::SCTP, vec![0; 32]),
        side.packet(IpNumber::UDP, vec![]),
        ping(),
        ping().ttl(1),
    ];
    packets.extend(controls(side).map(|(_, packet)| packet));
    packets.extend(OTHERS.map(|other| elsewhere(side, other)));
    packets.push(on_link(side));
    let tagged = [&[0, 5, 8, 0], &ping().bytes()[..]].concat();
    let mut all: Vec<_> = packets.iter().map(|packet| (EtherType::IPV4, packet.bytes())).collect();
    all.extend([
        (EtherType::IPV6, vec![0x60; 60]),
        (EtherType::ARP, vec![0; 28]),
        (EtherType::VLAN_TAGGED_FRAME, tagged),
    ]);
    all
}

/// Makes a packet of the flow with the peer on the link.
fn on_link(side: PodSide) -> Ipv4 {
    let mut packet = side.udp(b"x");
    match side {
        PodSide::Egress => packet.header.destination = ON_LINK_PODS.0,
        PodSide::Ingress => packet.header.source = ON_LINK_PODS.0,
    }
    packet
}

fn elsewhere(side: PodSide, other: Ipv4Addr) -> Ipv4 {
    let (source, destination) = match side {
        PodSide::Egress => (POD, other),
        PodSide::Ingress => (other, POD),
    };
    ipv4(source, destination, IpNumber::UDP, udp(1, 2, b"x"))
}

/// Wraps a frame: as a peer sends it, also through a congested router and in a group, and as another peer would.
fn wrapped(inner: &[u8]) -> Vec<(Hook, Vec<u8>)> {
    let by = |sender: [u8; 4], ecn: u8, header: &[u8]| {
        let datagram = udp(41000, PORT, header);
        let packet = ipv4(sender.into(), OUR_IP.into(), IpNumber::UDP, datagram).tos(0, ecn);
        (Hook::UnderlayIngress, frame(HOST_MAC, ROUTER_MAC, EtherType::IPV4, &packet.bytes()))
    };
    let plain = &vxlan(8, VNI, inner);
    let mut wrapped = [(PEER_IP, 0), (PEER_IP, 1), (PEER_IP, 3), (INNER_PEER_IP, 0)]
        .map(|(sender, ecn)| by(sender, ecn, plain))
        .to_vec();
    wrapped.push(by(PEER_IP, 0, &in_group(inner)));
    wrapped
}

/// Makes VXLAN with the proven group.
fn in_group(inner: &[u8]) -> Vec<u8> {
    let mut vxlan = vxlan(0x88, VNI, inner);
    vxlan[2..4].copy_from_slice(&(GROUP as u16).to_be_bytes());
    vxlan
}

/// Makes the peer's packet with a trailer, and with a UDP checksum.
fn unusual(inner: &[u8]) -> Vec<(Hook, Vec<u8>)> {
    let (hook, plain) = wrapped(inner).swap_remove(0);
    let mut checked = plain.clone();
    checked[40..42].copy_from_slice(&[0xab, 0xcd]);
    vec![(hook, [&plain[..], &[0; 4]].concat()), (hook, checked)]
}

/// Makes VXLAN that is not for the uplink's address, and IPsec.
fn strays(inner: &[u8]) -> Vec<(Hook, Vec<u8>)> {
    let elsewhere = |sender: [u8; 4], protocol, content| {
        let packet = ipv4(sender.into(), ELSEWHERE, protocol, content);
        frame(HOST_MAC, ROUTER_MAC, EtherType::IPV4, &packet.bytes())
    };
    let by = |sender| elsewhere(sender, IpNumber::UDP, udp(41000, PORT, &vxlan(8, VNI, inner)));
    let ipsec = elsewhere(PEER_IP, IpNumber(50), vec![0; 64]);
    let mut strays: Vec<_> = [by(PEER_IP), by(INNER_PEER_IP), ipsec]
        .into_iter()
        .flat_map(|frame| [Hook::UnderlayIngress, Hook::SideIngress].map(|hook| (hook, frame.clone())))
        .collect();
    strays.extend(wrapped(inner).into_iter().map(|(_, frame)| (Hook::SideIngress, frame)));
    strays
}

/// Makes packets from this node's own subnet, and from an address without a lease.
fn forged() -> Vec<(Hook, Vec<u8>)> {
    let sources = [POD, REMOTE, Ipv4Addr::new(192, 0, 2, 1)];
    let packets = sources.map(|source| ipv4(source, POD, IpNumber::UDP, udp(53, 40000, b"forged")));
    packets
        .iter()
        .flat_map(|packet| wrapped(&frame(OUR_MAC, PEER_MAC, EtherType::IPV4, &packet.bytes())))
        .collect()
}
