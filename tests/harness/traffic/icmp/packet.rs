//! Builds and parses ICMP messages.

use std::net::IpAddr;
use std::time::Duration;

use super::PingAnswer;

const HEADER: usize = 8;
const IPV6_HEADER: usize = 40;
const IPPROTO_ICMPV6: u8 = 58;

/// Message types of ICMP or ICMPv6.
struct Types {
    request: u8,
    reply: u8,
    unreachable: u8,
    time_exceeded: u8,
}

const V4: Types = Types { request: 8, reply: 0, unreachable: 3, time_exceeded: 11 };
const V6: Types = Types { request: 128, reply: 129, unreachable: 1, time_exceeded: 3 };
const V4_FRAGMENTATION_NEEDED: u8 = 4;
const V6_TOO_BIG: u8 = 2;

pub(super) struct Echo<'a> {
    pub(super) v6: bool,
    pub(super) id: u16,
    pub(super) payload: &'a [u8],
}

impl Echo<'_> {
    fn types(&self) -> &'static Types {
        if self.v6 { &V6 } else { &V4 }
    }

    pub(super) fn request(&self) -> Vec<u8> {
        let mut message = vec![self.types().request, 0, 0, 0, 0, 0, 0, 1];
        message[4..6].copy_from_slice(&self.id.to_be_bytes());
        message.extend(self.payload);
        // The kernel computes the checksum of ICMPv6, which covers the addresses.
        if !self.v6 {
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        message
    }

    fn is_own(&self, message: &[u8]) -> bool {
        message.get(4..6) == Some(&self.id.to_be_bytes())
    }
}

/// Returns the answer if the message is one to this request. A raw IPv4 socket also gives the IP header.
pub(super) fn parse(packet: &[u8], by: IpAddr, echo: &Echo<'_>) -> Option<PingAnswer> {
    let (ttl, message) = if echo.v6 { (None, packet) } else { (packet.get(8).copied(), after_ipv4(packet)?) };
    let (kind, code) = (*message.first()?, *message.get(1)?);
    if kind == echo.types().reply {
        let is_own = echo.is_own(message) && message.get(HEADER..)? == echo.payload;
        return is_own.then_some(PingAnswer::Reply { time: Duration::ZERO, ttl });
    }
    let answer = explain(kind, code, message.get(..HEADER)?, by, echo)?;
    let quoted = quoted_echo(message.get(HEADER..)?, echo.v6)?;
    echo.is_own(quoted).then_some(answer)
}

fn explain(kind: u8, code: u8, header: &[u8], by: IpAddr, echo: &Echo<'_>) -> Option<PingAnswer> {
    if echo.v6 && kind == V6_TOO_BIG {
        return Some(PingAnswer::TooBig { by, mtu: u32::from_be_bytes(header[4..8].try_into().ok()?) });
    }
    if !echo.v6 && kind == V4.unreachable && code == V4_FRAGMENTATION_NEEDED {
        return Some(PingAnswer::TooBig {
            by,
            mtu: u16::from_be_bytes(header[6..8].try_into().ok()?).into(),
        });
    }
    match kind {
        _ if kind == echo.types().unreachable => Some(PingAnswer::Unreachable { by, code }),
        _ if kind == echo.types().time_exceeded => Some(PingAnswer::TimeExceeded { by }),
        _ => None,
    }
}

fn quoted_echo(packet: &[u8], v6: bool) -> Option<&[u8]> {
    if v6 {
        return if *packet.get(6)? == IPPROTO_ICMPV6 { packet.get(IPV6_HEADER..) } else { None };
    }
    after_ipv4(packet)
}

fn after_ipv4(packet: &[u8]) -> Option<&[u8]> {
    let length = usize::from(packet.first()? & 0xf) * 4;
    packet.get(length..)
}

fn checksum(message: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let mut sum: u32 = message.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
