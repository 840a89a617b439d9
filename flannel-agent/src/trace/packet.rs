//! The packet in question: what was asked about, and its bytes at each place on the way. It is never sent.

use std::net::{IpAddr, Ipv4Addr};

use clap::ValueEnum;
use flannel_common::flow::FlowKey;
use serde::Serialize;

use crate::checksum::checksum;

/// What a packet carries.
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

/// A packet to ask about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Packet {
    /// Its source.
    pub source: IpAddr,
    /// Its destination, of the same family.
    pub destination: IpAddr,
    /// What it carries.
    pub protocol: Protocol,
    /// Source port; 0 for ICMP.
    pub source_port: u16,
    /// Destination port; 0 for ICMP.
    pub destination_port: u16,
    /// Length of the IP packet in bytes, its headers included.
    pub bytes: u16,
}

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
/// EtherType of IPv4.
const ETHER_TYPE: [u8; 2] = [0x08, 0];
/// Time to live that a pod's packets begin with.
const TTL: u8 = 64;

impl Protocol {
    /// IP protocol number over IPv4.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Icmp => 1,
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// Length of its header in bytes.
    const fn header(self) -> usize {
        match self {
            Self::Icmp | Self::Udp => 8,
            Self::Tcp => 20,
        }
    }
}

impl Packet {
    /// The shortest packet in bytes that this protocol's header fits into, over IPv4 or IPv6.
    #[must_use]
    pub const fn shortest(protocol: Protocol, ipv4: bool) -> u16 {
        (if ipv4 { IPV4 } else { IPV6 } + protocol.header()) as u16
    }

    /// The addresses, if they are of IPv4.
    #[must_use]
    pub const fn ipv4(&self) -> Option<(Ipv4Addr, Ipv4Addr)> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Some((source, destination)),
            _ => None,
        }
    }

    /// Its flow, as `FLOWS` names it where the source is a pod of this node (`egress`) or the destination is; `None` if
    /// it belongs to none.
    #[must_use]
    pub fn flow(&self, egress: bool) -> Option<FlowKey> {
        let (source, destination) = self.ipv4().filter(|_| self.protocol != Protocol::Icmp)?;
        let from = (source.octets(), self.source_port.to_be_bytes());
        let to = (destination.octets(), self.destination_port.to_be_bytes());
        let ((pod, pod_port), (remote, remote_port)) = if egress { (from, to) } else { (to, from) };
        let protocol = self.protocol.number();
        Some(FlowKey { pod, remote, pod_port, remote_port, protocol, reserved: [0; 3] })
    }

    /// The frame that carries it after this many routers; `None` for IPv6.
    #[must_use]
    pub fn frame(&self, destination: [u8; 6], source: [u8; 6], hops: u8) -> Option<Vec<u8>> {
        let (from, to) = self.ipv4()?;
        let mut packet = ipv4_header(from, to, self.protocol.number(), self.bytes, TTL - hops).to_vec();
        packet.extend(self.transport());
        packet.resize(self.bytes.into(), 0);
        Some(framed(destination, source, &packet))
    }

    /// The transport header. Its checksum is left out: no program looks at it, and nobody receives it.
    fn transport(&self) -> Vec<u8> {
        let ports = [self.source_port.to_be_bytes(), self.destination_port.to_be_bytes()].concat();
        match self.protocol {
            Protocol::Icmp => vec![8, 0, 0, 0, 0, 1, 0, 1],
            Protocol::Udp => [&ports[..], &(self.bytes - IPV4 as u16).to_be_bytes(), &[0; 2]].concat(),
            // Five words of header, ACK, a window of 64 KiB.
            Protocol::Tcp => {
                [&ports[..], &1u32.to_be_bytes(), &1u32.to_be_bytes(), &[0x50, 0x10, 0xff, 0xff], &[0; 4]]
                    .concat()
            }
        }
    }
}

/// What a peer sends: the frame in VXLAN, UDP and IPv4, as it arrives at the uplink.
#[must_use]
pub fn wrapped(frame: &[u8], sender: Ipv4Addr, to: Ipv4Addr, port: u16, vni: u32, mac: [u8; 6]) -> Vec<u8> {
    const SOURCE_PORT: u16 = 40000;
    let length = |more: usize| (frame.len() + more) as u16;
    let mut packet = ipv4_header(sender, to, Protocol::Udp.number(), length(IPV4 + 16), TTL).to_vec();
    packet.extend(SOURCE_PORT.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend(length(16).to_be_bytes());
    // No checksum, as flannel sends it; the VNI flag; the VNI in the upper three bytes.
    packet.extend([0, 0, 0x08, 0, 0, 0]);
    packet.extend((vni << 8).to_be_bytes());
    packet.extend(frame);
    framed(mac, [0x02, 0, 0, 0, 0, 1], &packet)
}

fn framed(destination: [u8; 6], source: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET + packet.len());
    frame.extend(destination);
    frame.extend(source);
    frame.extend(ETHER_TYPE);
    frame.extend(packet);
    frame
}

fn ipv4_header(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, length: u16, ttl: u8) -> [u8; IPV4] {
    let mut header = [0x45, 0, 0, 0, 0, 0, 0, 0, ttl, protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[12..16].copy_from_slice(&from.octets());
    header[16..].copy_from_slice(&to.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(protocol: Protocol, bytes: u16) -> Packet {
        let (source, destination) = ([10, 1, 90, 2].into(), [10, 1, 15, 7].into());
        Packet { source, destination, protocol, source_port: 40000, destination_port: 53, bytes }
    }

    #[test]
    fn a_frame_is_as_long_as_asked_and_says_so() {
        for protocol in [Protocol::Icmp, Protocol::Tcp, Protocol::Udp] {
            for bytes in [Packet::shortest(protocol, true), 84, 1450] {
                let frame = packet(protocol, bytes).frame([1; 6], [2; 6], 3).unwrap();
                assert_eq!(frame.len(), usize::from(bytes) + 14, "{protocol:?} of {bytes} bytes");
                assert_eq!((frame[22], frame[23]), (61, protocol.number()));
                assert_eq!(frame[16..18], bytes.to_be_bytes());
                assert_eq!(checksum(&frame[14..34]), 0);
            }
        }
    }

    #[test]
    fn a_flow_is_named_from_its_pods_side() {
        let udp = packet(Protocol::Udp, 84);
        let (out, inwards) = (udp.flow(true).unwrap(), udp.flow(false).unwrap());
        assert_eq!((out.pod, out.pod_port), ([10, 1, 90, 2], 40000u16.to_be_bytes()));
        assert_eq!((out.remote, out.remote_port), ([10, 1, 15, 7], 53u16.to_be_bytes()));
        assert_eq!((inwards.pod, inwards.remote, inwards.remote_port), (out.remote, out.pod, out.pod_port));
        assert_eq!(packet(Protocol::Icmp, 84).flow(true), None);
        let v6 =
            Packet { source: "fd44::1".parse().unwrap(), destination: "fd44::2".parse().unwrap(), ..udp };
        assert_eq!((v6.flow(true), v6.frame([1; 6], [2; 6], 0)), (None, None));
    }
}
