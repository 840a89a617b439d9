//! The traced packet, and its bytes at each point of its path. It is never sent.

mod bytes;

use std::net::{IpAddr, SocketAddr};

use clap::ValueEnum;
use serde::Serialize;

use crate::dataplane::bpf::dry_run::known::Ends;

use bytes::{ETHERNET, framed, header_len, ip};
pub use bytes::{Envelope, encapsulate};

/// The payload of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// An echo request, as ping sends it.
    Icmp,
    /// A segment in the middle of a connection.
    Tcp,
    /// A datagram.
    Udp,
}

/// A packet to trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// Payload.
    pub protocol: Protocol,
    /// Source port; 0 for ICMP.
    pub source_port: u16,
    /// Destination port; 0 for ICMP.
    pub destination_port: u16,
    /// Length of the IP packet in bytes, its headers included.
    pub bytes: u16,
}

/// TTL, or hop limit, with which pods send packets.
const TTL: u8 = 64;

impl Protocol {
    /// Returns the IP protocol number in the address family of `between`.
    pub(super) const fn number(self, between: IpAddr) -> u8 {
        match (self, between) {
            (Self::Icmp, IpAddr::V4(_)) => 1,
            (Self::Icmp, IpAddr::V6(_)) => 58,
            (Self::Tcp, _) => 6,
            (Self::Udp, _) => 17,
        }
    }

    /// Returns the length of its header in bytes.
    const fn header(self) -> usize {
        match self {
            Self::Icmp | Self::Udp => 8,
            Self::Tcp => 20,
        }
    }
}

impl Packet {
    /// Returns the length in bytes of a packet without payload, in the address family of `between`.
    #[must_use]
    pub const fn shortest(protocol: Protocol, between: IpAddr) -> u16 {
        (header_len(between) + protocol.header()) as u16
    }

    /// Returns the packet's flow as seen from its pod on this node: the source if `egress`, else the destination. `None`
    /// for ICMP, which the flow cache does not hold.
    #[must_use]
    pub const fn flow(&self, egress: bool) -> Option<Ends> {
        if matches!(self.protocol, Protocol::Icmp) {
            return None;
        }
        let from = SocketAddr::new(self.source, self.source_port);
        let to = SocketAddr::new(self.destination, self.destination_port);
        let (pod, remote) = if egress { (from, to) } else { (to, from) };
        Some(Ends { pod, remote, protocol: self.protocol.number(self.source) })
    }

    /// Builds the frame that carries the packet after `hops` routers.
    #[must_use]
    pub fn frame(&self, destination: [u8; 6], source: [u8; 6], hops: u8) -> Vec<u8> {
        let protocol = self.protocol.number(self.source);
        let mut payload = self.transport();
        payload.resize(usize::from(self.bytes) - header_len(self.source), 0);
        framed(
            destination,
            source,
            self.source,
            &ip(self.source, self.destination, protocol, TTL - hops, &payload),
        )
    }

    /// Builds the transport header. Leaves its checksum 0: programs do not read it, and nobody receives the packet.
    fn transport(&self) -> Vec<u8> {
        let ports = [self.source_port.to_be_bytes(), self.destination_port.to_be_bytes()].concat();
        match (self.protocol, self.source) {
            (Protocol::Icmp, IpAddr::V4(_)) => vec![8, 0, 0, 0, 0, 1, 0, 1],
            (Protocol::Icmp, IpAddr::V6(_)) => vec![128, 0, 0, 0, 0, 1, 0, 1],
            (Protocol::Udp, _) => {
                let length = self.bytes - header_len(self.source) as u16;
                [&ports[..], &length.to_be_bytes(), &[0; 2]].concat()
            }
            // Five words of header, ACK, a window of 64 KiB.
            (Protocol::Tcp, _) => {
                [&ports[..], &1u32.to_be_bytes(), &1u32.to_be_bytes(), &[0x50, 0x10, 0xff, 0xff], &[0; 4]]
                    .concat()
            }
        }
    }
}

/// Returns the length in bytes of the longest packet that fits a frame of this length with a peer's outer headers.
#[must_use]
pub const fn longest(frame: usize, between: IpAddr) -> usize {
    frame - ETHERNET - header_len(between) - bytes::UDP_AND_VXLAN - ETHERNET
}

#[cfg(test)]
mod tests {
    use flannel_common::checksum;

    use super::*;

    const PROTOCOLS: [Protocol; 3] = [Protocol::Icmp, Protocol::Tcp, Protocol::Udp];

    fn packet(protocol: Protocol, bytes: u16) -> Packet {
        let (source, destination) = ([10, 1, 90, 2].into(), [10, 1, 15, 7].into());
        Packet { source, destination, protocol, source_port: 40000, destination_port: 53, bytes }
    }

    fn v6(packet: Packet) -> Packet {
        Packet { source: "fd44::1".parse().unwrap(), destination: "fd44::2".parse().unwrap(), ..packet }
    }

    #[test]
    fn an_ipv4_frame_has_the_length_asked_for_in_its_header_too() {
        for protocol in PROTOCOLS {
            let source = packet(protocol, 0).source;
            for bytes in [Packet::shortest(protocol, source), 84, 1450] {
                let frame = packet(protocol, bytes).frame([1; 6], [2; 6], 3);
                assert_eq!(frame.len(), usize::from(bytes) + 14, "{protocol:?} of {bytes} bytes");
                assert_eq!(
                    (&frame[12..14], frame[22], frame[23]),
                    (&[8, 0][..], 61, protocol.number(source))
                );
                assert_eq!(frame[16..18], bytes.to_be_bytes());
                assert_eq!(checksum::of(&frame[14..34]), 0);
            }
        }
    }

    #[test]
    fn an_ipv6_frame_has_the_length_asked_for_in_its_header_too() {
        for protocol in PROTOCOLS {
            let source = v6(packet(protocol, 0)).source;
            for bytes in [Packet::shortest(protocol, source), 84, 1430] {
                let frame = v6(packet(protocol, bytes)).frame([1; 6], [2; 6], 3);
                assert_eq!(frame.len(), usize::from(bytes) + 14, "{protocol:?} of {bytes} bytes");
                assert_eq!(
                    (&frame[12..15], frame[20], frame[21]),
                    (&[0x86, 0xdd, 0x60][..], protocol.number(source), 61)
                );
                assert_eq!(frame[18..20], (bytes - 40).to_be_bytes());
                assert_eq!((frame[22], frame[37], frame[53]), (0xfd, 1, 2));
            }
        }
    }

    #[test]
    fn a_flow_is_seen_from_its_pod() {
        for udp in [packet(Protocol::Udp, 84), v6(packet(Protocol::Udp, 84))] {
            let (out, inwards) = (udp.flow(true).unwrap(), udp.flow(false).unwrap());
            assert_eq!((out.pod, out.remote), ((udp.source, 40000).into(), (udp.destination, 53).into()));
            assert_eq!((inwards.pod, inwards.remote), (out.remote, out.pod));
            assert_eq!(out.protocol, 17);
        }
        assert_eq!(packet(Protocol::Icmp, 84).flow(true), None);
    }
}
