//! Builds IPv4 and IPv6 packets, and the outer headers of a peer's VXLAN packet.

use std::net::IpAddr;

use flannel_common::checksum;

pub(super) const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8;
const VXLAN: usize = 8;
pub(super) const UDP_AND_VXLAN: usize = UDP + VXLAN;
/// IP protocol number of UDP.
const UDP_NUMBER: u8 = 17;
/// TTL, or hop limit, of outer packets.
const TTL: u8 = 64;

/// Addresses, port and VNI of a VXLAN packet.
#[derive(Clone, Copy, Debug)]
pub struct Envelope {
    /// Outer source.
    pub sender: IpAddr,
    /// Outer destination, of the same family.
    pub to: IpAddr,
    /// UDP destination port.
    pub port: u16,
    /// VXLAN network identifier.
    pub vni: u32,
    /// Destination of the outer frame.
    pub mac: [u8; 6],
}

/// Returns the length in bytes of an IP header in the address family of `between`.
pub(super) const fn header_len(between: IpAddr) -> usize {
    match between {
        IpAddr::V4(_) => IPV4,
        IpAddr::V6(_) => IPV6,
    }
}

/// Encapsulates the frame in VXLAN, UDP and IP, as it arrives from a peer at the uplink.
#[must_use]
pub fn encapsulate(frame: &[u8], envelope: &Envelope) -> Vec<u8> {
    const SOURCE_PORT: u16 = 40000;
    let Envelope { sender, to, port, vni, mac } = *envelope;
    let mut datagram = Vec::with_capacity(UDP_AND_VXLAN + frame.len());
    datagram.extend(SOURCE_PORT.to_be_bytes());
    datagram.extend(port.to_be_bytes());
    datagram.extend(((UDP_AND_VXLAN + frame.len()) as u16).to_be_bytes());
    // UDP checksum 0; VXLAN flag for a VNI; VNI in the upper three bytes.
    datagram.extend([0, 0, 0x08, 0, 0, 0]);
    datagram.extend((vni << 8).to_be_bytes());
    datagram.extend(frame);
    if sender.is_ipv6() {
        // flannel sends no checksum over IPv4; IPv6 requires one.
        let sum = udp_checksum(sender, to, &datagram);
        datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    }
    framed(mac, [0x02, 0, 0, 0, 0, 1], sender, &ip(sender, to, UDP_NUMBER, TTL, &datagram))
}

/// Returns the checksum over a datagram and its pseudo-header (RFC 8200 section 8.1). 0 is sent as 0xffff, since 0 means
/// that there is no checksum.
fn udp_checksum(from: IpAddr, to: IpAddr, datagram: &[u8]) -> u16 {
    let length = (datagram.len() as u32).to_be_bytes();
    let pseudo = [octets(from), octets(to), length.to_vec(), vec![0, 0, 0, UDP_NUMBER]].concat();
    match checksum::of(&[&pseudo, datagram].concat()) {
        0 => 0xffff,
        sum => sum,
    }
}

/// Builds an IP packet with this payload.
pub(super) fn ip(from: IpAddr, to: IpAddr, protocol: u8, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = match from {
        IpAddr::V4(_) => {
            let [high, low] = ((IPV4 + payload.len()) as u16).to_be_bytes();
            vec![0x45, 0, high, low, 0, 0, 0, 0, ttl, protocol, 0, 0]
        }
        IpAddr::V6(_) => {
            let [high, low] = (payload.len() as u16).to_be_bytes();
            vec![0x60, 0, 0, 0, high, low, protocol, ttl]
        }
    };
    header.extend([octets(from), octets(to)].concat());
    if from.is_ipv4() {
        let sum = checksum::of(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    header.extend(payload);
    header
}

/// Puts an Ethernet header before a packet in the address family of `between`.
pub(super) fn framed(destination: [u8; 6], source: [u8; 6], between: IpAddr, packet: &[u8]) -> Vec<u8> {
    let ether_type = match between {
        IpAddr::V4(_) => [0x08, 0],
        IpAddr::V6(_) => [0x86, 0xdd],
    };
    [&destination[..], &source, &ether_type, packet].concat()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peers_packet_over_ipv6_has_a_right_udp_checksum() {
        let ends = ["fd00::2", "fd00::1"].map(|text| text.parse::<IpAddr>().unwrap());
        let envelope = Envelope { sender: ends[0], to: ends[1], port: 8472, vni: 1, mac: [1; 6] };
        for frame in [&[7; 60][..], &[9; 61]] {
            let sent = encapsulate(frame, &envelope);
            let (header, datagram) = sent[ETHERNET..].split_at(IPV6);
            assert_eq!(header[..8], [0x60, 0, 0, 0, 0, datagram.len() as u8, 17, 64]);
            assert_ne!(datagram[6..8], [0, 0]);
            let pseudo = [&header[8..], &(datagram.len() as u32).to_be_bytes(), &[0, 0, 0, 17]].concat();
            assert_eq!(checksum::of(&[&pseudo, datagram].concat()), 0);
        }
    }
}
