//! Holders of addresses by the tests' leases, and forged packets.

use super::super::ON_LINK;
use super::super::frame::{ETHERNET, Ip, UDP_AND_VXLAN, ip, word};
use flannel_common::node::{SOURCE_CHECK_OFF, SOURCE_CHECK_PODS};

use crate::packets::PORT;
use crate::program::{
    ENDED_SUBNET, INNER_PEER_IP, INNER_PEER_MAC, OUR_IP, OUR_IP6, OUR_SUBNET, PEER_IP, PEER_MAC, VNI, ipv6,
};

/// The holder of an address.
pub(super) enum Holder {
    ThisNode,
    Peer {
        /// Its public address.
        node: &'static [u8],
        vtep: [u8; 6],
        /// How packets go there. `None`: they are only accepted from there.
        by: Option<PeerPath>,
    },
}

/// How packets go to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeerPath {
    Tunnel,
    /// Without a tunnel, on the uplink's link.
    Link,
}

/// Returns the holder of an address of either family.
pub(super) fn holder(address: &[u8]) -> Option<Holder> {
    let tunnel = Some(PeerPath::Tunnel);
    let peer = |by| Some(Holder::Peer { node: &PEER_IP, vtep: PEER_MAC, by });
    let peer6 = |by| Some(Holder::Peer { node: &ipv6::PEER_IP, vtep: ipv6::PEER_MAC, by });
    let direct6 = Holder::Peer { node: &ipv6::DIRECT_IP, vtep: [6; 6], by: Some(PeerPath::Link) };
    match address {
        [10, 1, 15, 128..=255] => {
            Some(Holder::Peer { node: &INNER_PEER_IP, vtep: INNER_PEER_MAC, by: tunnel })
        }
        [10, 1, 15, _] => peer(tunnel),
        _ if is_in(address, &ON_LINK, 3) => peer(Some(PeerPath::Link)),
        _ if address == PEER_IP || is_in(address, &ENDED_SUBNET, 3) => peer(None),
        _ if is_in(address, &OUR_SUBNET, 3) || is_in(address, &ipv6::OUR_SUBNET, 8) => Some(Holder::ThisNode),
        _ if is_in(address, &ipv6::PEER_SUBNET, 8) => peer6(tunnel),
        _ if address == ipv6::PEER_IP || is_in(address, &ipv6::ENDED_SUBNET, 8) => peer6(None),
        _ if is_in(address, &ipv6::DIRECT_SUBNET, 8) => Some(direct6),
        _ => None,
    }
}

/// Returns whether an address begins with the first bytes of the subnet.
fn is_in(address: &[u8], subnet: &[u8], bytes: usize) -> bool {
    address.len() == subnet.len() && address[..bytes] == subnet[..bytes]
}

/// Returns whether a packet is VXLAN to this node, of any form, from a node that may not send from the inner source.
pub(super) fn is_forged(frame: &[u8], mode: u32) -> bool {
    frame[..6] == [0; 6]
        && sources(frame).is_some_and(|Sources { outer, inner, to }| {
            (to == OUR_IP || to == OUR_IP6) && !may_send(outer, inner, mode)
        })
}

/// Returns whether a packet may go to the vxlan device: VXLAN to any address from a node that may send it, or IPsec.
pub(super) fn is_accepted(frame: &[u8], mode: u32) -> bool {
    is_ipsec(frame) || sources(frame).is_some_and(|Sources { outer, inner, .. }| may_send(outer, inner, mode))
}

fn may_send(outer: &[u8], inner: &[u8], mode: u32) -> bool {
    let is_node = outer == PEER_IP || outer == ipv6::PEER_IP;
    match holder(inner) {
        _ if mode == SOURCE_CHECK_OFF => true,
        Some(Holder::Peer { node, .. }) => node == outer,
        Some(Holder::ThisNode) => false,
        None if stays_on_link(inner) => true,
        None => {
            let is_pod = is_in(inner, &[10, 1, 0, 0], 2) || is_in(inner, &ipv6::PEER_SUBNET, 6);
            mode == SOURCE_CHECK_PODS && is_node && !is_pod && outer.len() == inner.len()
        }
    }
}

/// Returns whether a packet is IPsec: ESP, AH, or ESP over UDP port 4500.
fn is_ipsec(frame: &[u8]) -> bool {
    let (protocol, whole, udp) = match (word(frame, 12), frame.get(14).map(|byte| byte >> 4)) {
        (Some(0x0800), Some(4)) => (frame.get(23), frame.get(33), udp_over_ipv4(frame)),
        (Some(0x86dd), Some(6)) => (frame.get(20), frame.get(53), udp_over_ipv6(frame)),
        _ => return false,
    };
    let behind_nat =
        udp.is_some_and(|(_, _, udp)| frame.len() >= udp + 8 && word(frame, udp + 2) == Some(4500));
    whole.is_some() && matches!(protocol, Some(50 | 51)) || behind_nat
}

/// Returns whether a packet comes without a tunnel from a pod of a peer on the link to a pod of this node.
pub(super) fn is_direct(frame: &[u8]) -> bool {
    let from_link =
        |ip: &Ip<'_>| matches!(holder(ip.source), Some(Holder::Peer { by: Some(PeerPath::Link), .. }));
    let to_us = |ip: &Ip<'_>| matches!(holder(ip.destination), Some(Holder::ThisNode));
    frame[..6] == [0; 6] && ip(frame, ETHERNET).is_some_and(|ip| from_link(&ip) && to_us(&ip))
}

/// Returns whether no router forwards packets from this address: fe80::/10, and the unspecified address of IPv6.
fn stays_on_link(address: &[u8]) -> bool {
    address.len() == 16 && (address[0] == 0xfe && address[1] >> 6 == 2 || address == [0; 16])
}

/// Addresses of a VXLAN packet.
struct Sources<'a> {
    outer: &'a [u8],
    inner: &'a [u8],
    /// Outer destination.
    to: &'a [u8],
}

/// Returns outer and inner source of a packet that the kernel's vxlan device would unwrap.
fn sources(frame: &[u8]) -> Option<Sources<'_>> {
    let (outer, to, udp) = match word(frame, 12)? {
        0x0800 => udp_over_ipv4(frame)?,
        0x86dd => udp_over_ipv6(frame)?,
        _ => return None,
    };
    let (vxlan, inner) = (udp + 8, udp + UDP_AND_VXLAN);
    let is_ours = word(frame, udp + 2)? == PORT
        && frame.get(vxlan)? & 8 != 0
        && frame.get(vxlan + 4..vxlan + 7)? == &VNI.to_be_bytes()[1..];
    let ip = inner + ETHERNET;
    let source = match (word(frame, inner + 12)?, frame.get(ip)? >> 4) {
        (0x0800, 4) => frame.get(ip..ip + 20)?.get(12..16)?,
        (0x86dd, 6) => frame.get(ip..ip + 40)?.get(8..24)?,
        _ => return None,
    };
    is_ours.then_some(Sources { outer, inner: source, to })
}

/// Returns source, destination and offset of UDP in an IPv4 packet, if it is whole or the first fragment.
fn udp_over_ipv4(frame: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let is_later_fragment = word(frame, 20)? & 0x1fff != 0;
    let is_udp = frame.get(14)? >> 4 == 4 && *frame.get(23)? == 17 && !is_later_fragment;
    is_udp.then_some((&frame[26..30], frame.get(30..34)?, ETHERNET + usize::from(frame[14] & 0xf) * 4))
}

/// Does the same for IPv6, after at most the seven extension headers that RFC 8200 lists.
fn udp_over_ipv6(frame: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let to = frame.get(38..54).filter(|_| frame[14] >> 4 == 6)?;
    let (mut next, mut at) = (frame[20], ETHERNET + 40);
    for _ in 0..7 {
        if next == 17 {
            break;
        }
        let extension = frame.get(at..at + 4)?;
        at += match next {
            0 | 43 | 60 => (usize::from(extension[1]) + 1) * 8,
            44 if word(extension, 2)? >> 3 == 0 => 8,
            _ => return None,
        };
        next = extension[0];
    }
    (next == 17).then_some((&frame[22..38], to, at))
}
