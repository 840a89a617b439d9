//! Parses the outer headers of packets that a program sends to a peer, and checks each field.

use std::net::Ipv4Addr;

use serde::Serialize;

use crate::mac::Mac;
use flannel_common::checksum;

/// The headers around an inner frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OuterHeaders {
    /// IPv4 source: the sending node.
    pub source: Ipv4Addr,
    /// IPv4 destination: the receiving node.
    pub destination: Ipv4Addr,
    /// Time to live.
    pub ttl: u8,
    /// ECN code point (RFC 3168), 0 to 3.
    pub ecn: u8,
    /// UDP source port, which spreads flows over the underlay. Real packets get another one: the kernel hashes packets of
    /// a socket differently from those of a test run.
    pub source_port: u16,
    /// UDP destination port.
    pub destination_port: u16,
    /// VXLAN network identifier.
    pub vni: u32,
    /// The packet's group, with group policy (draft-smith-vxlan-group-policy).
    pub group: Option<u16>,
    /// Source MAC of the inner frame: the sending VTEP.
    pub inner_source: Mac,
    /// Destination MAC of the inner frame: the receiving VTEP.
    pub inner_destination: Mac,
    /// Length of the outer IPv4 packet in bytes.
    pub bytes: u16,
}

/// Why outer headers are rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The packet is shorter than its headers.
    #[error("the packet ends inside its headers")]
    Short,
    /// Not IPv4 with a plain header, or not UDP.
    #[error("the outer packet is not plain IPv4 with UDP inside")]
    Kind,
    /// IPv4 length, UDP length and frame do not agree.
    #[error("the outer lengths do not agree with the frame's")]
    Length,
    /// The IPv4 header checksum is wrong, or there is a UDP checksum.
    #[error("an outer checksum is wrong")]
    Checksum,
    /// Not the VNI flag alone, or with a group, or reserved bits set (RFC 7348 section 5).
    #[error("the VXLAN header is not plain")]
    Vxlan,
}

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
const VXLAN: usize = 8;

impl OuterHeaders {
    /// Parses the headers of a frame and returns them with the inner frame.
    ///
    /// # Errors
    /// A field differs from what RFC 7348 or flannel's peers expect.
    pub fn read(frame: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let (ethernet, packet) = frame.split_at_checked(ETHERNET).ok_or(Malformed::Short)?;
        let (ip, datagram) = packet.split_at_checked(IPV4).ok_or(Malformed::Short)?;
        let (udp, payload) = datagram.split_at_checked(UDP).ok_or(Malformed::Short)?;
        let (vxlan, inner) = payload.split_at_checked(VXLAN).ok_or(Malformed::Short)?;
        if inner.len() < ETHERNET {
            return Err(Malformed::Short);
        }
        // Version 4 without options, no fragment, UDP.
        if ethernet[12..] != [0x08, 0] || ip[0] != 0x45 || word(ip, 6) & 0x3fff != 0 || ip[9] != 17 {
            return Err(Malformed::Kind);
        }
        if usize::from(word(ip, 2)) != packet.len() || usize::from(word(udp, 4)) != datagram.len() {
            return Err(Malformed::Length);
        }
        if checksum::of(ip) != 0 || word(udp, 6) != 0 {
            return Err(Malformed::Checksum);
        }
        let group = group(vxlan)?;
        Ok((Self::of(ip, udp, vxlan, group, inner), inner))
    }

    fn of(ip: &[u8], udp: &[u8], vxlan: &[u8], group: Option<u16>, inner: &[u8]) -> Self {
        Self {
            source: address(ip, 12),
            destination: address(ip, 16),
            ttl: ip[8],
            ecn: ip[1] & 0b11,
            source_port: word(udp, 0),
            destination_port: word(udp, 2),
            vni: u32::from_be_bytes([0, vxlan[4], vxlan[5], vxlan[6]]),
            group,
            inner_source: mac(inner, 6),
            inner_destination: mac(inner, 0),
            bytes: word(ip, 2),
        }
    }
}

/// Returns the group in a VXLAN header, if it has one. Accepts two flags beside it: the receiver must not learn from the
/// packet (0x40), and policies have been applied already (0x08).
fn group(vxlan: &[u8]) -> Result<Option<u16>, Malformed> {
    const KNOWN: u8 = 0x48;
    match *vxlan {
        [0x08, 0, 0, 0, .., 0] => Ok(None),
        [0x88, flags, high, low, .., 0] if flags & !KNOWN == 0 => Ok(Some(u16::from_be_bytes([high, low]))),
        _ => Err(Malformed::Vxlan),
    }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn address(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}

fn mac(bytes: &[u8], at: usize) -> Mac {
    let mut mac = [0; 6];
    mac.copy_from_slice(&bytes[at..at + 6]);
    Mac(mac)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::packet::{Envelope, encapsulate};

    const INNER: [u8; 34] = [7; 34];

    fn good() -> Vec<u8> {
        let (sender, to) = ([192, 168, 64, 2].into(), [192, 168, 64, 1].into());
        encapsulate(&INNER, &Envelope { sender, to, port: 8472, vni: 0xabcdef, mac: [1; 6] })
    }

    #[test]
    fn headers_of_a_peers_packet_are_read() {
        let sent = good();
        let (outer, inner) = OuterHeaders::read(&sent).unwrap();
        assert_eq!(inner, INNER);
        let expected = OuterHeaders {
            source: Ipv4Addr::new(192, 168, 64, 2),
            destination: Ipv4Addr::new(192, 168, 64, 1),
            ttl: 64,
            ecn: 0,
            source_port: 40000,
            destination_port: 8472,
            vni: 0xabcdef,
            group: None,
            inner_source: Mac([7; 6]),
            inner_destination: Mac([7; 6]),
            bytes: 34 + 36,
        };
        assert_eq!(outer, expected);
    }

    #[test]
    fn a_group_is_read() {
        let mut sent = good();
        for flags in [0, 0x40, 0x08, 0x48] {
            sent[42..46].copy_from_slice(&[0x88, flags, 1, 2]);
            assert_eq!(OuterHeaders::read(&sent).unwrap().0.group, Some(0x102), "{flags:02x}");
        }
    }

    #[test]
    fn malformed_headers_are_rejected() {
        let with = |at: usize, byte: u8| {
            let mut frame = good();
            frame[at] = byte;
            OuterHeaders::read(&frame).err()
        };
        for (description, at, byte, expected) in [
            ("IPv6", 12, 0x86, Malformed::Kind),
            ("IP options", 14, 0x46, Malformed::Kind),
            ("a fragment", 20, 0x20, Malformed::Kind),
            ("TCP", 23, 6, Malformed::Kind),
            ("IPv4 length", 17, 71, Malformed::Length),
            ("UDP length", 39, 1, Malformed::Length),
            ("IPv4 checksum", 24, 0, Malformed::Checksum),
            ("UDP checksum", 41, 1, Malformed::Checksum),
            ("VXLAN flags", 42, 0x0c, Malformed::Vxlan),
            ("a group without its flag", 45, 1, Malformed::Vxlan),
            ("behind the VNI", 49, 1, Malformed::Vxlan),
        ] {
            assert_eq!(with(at, byte), Some(expected), "{description}");
        }
        for length in 0..50 + ETHERNET {
            assert_eq!(
                OuterHeaders::read(&good()[..length]).err(),
                Some(Malformed::Short),
                "cut at {length}"
            );
        }
    }
}
