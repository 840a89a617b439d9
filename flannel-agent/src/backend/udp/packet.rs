//! Reads and changes IPv4 packets that pass the tunnel, and makes ICMP errors. Pure.

use std::net::Ipv4Addr;

use flannel_common::checksum;

/// Length of an IPv4 header without options.
const HEADER: usize = 20;
const ICMP_HEADER: usize = 8;
/// Bytes after the IP header that an ICMP error quotes of the offending packet (RFC 792).
const QUOTED: usize = 8;
/// TTL of ICMP errors. They go to pods of this node only.
const ERROR_TTL: u8 = 64;
const ICMP: u8 = 1;
/// Destination unreachable, code 0: network unreachable.
const NET_UNREACHABLE: [u8; 2] = [3, 0];

/// Returns the destination address; `None` if this is no IPv4 packet with a complete header.
pub(super) fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    header(packet)?;
    address(packet, 16)
}

/// Decrements the TTL. Returns false if the packet must not go on: its TTL has run out, or it is not IPv4.
pub(super) fn decrement_ttl(packet: &mut [u8]) -> bool {
    if header(packet).is_none() || packet[8] <= 1 {
        return false;
    }
    packet[8] -= 1;
    // The TTL is the upper byte of a word.
    let sum = checksum::updated(u16::from_be_bytes([packet[10], packet[11]]), 0x0100, 0);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    true
}

/// Returns the ICMP error "network unreachable" about this packet, and the address of the sender, which gets it.
///
/// `None` where no error may be sent: about ICMP, and about fragments other than the first (RFC 792). The kernel fills
/// in source address and header checksum (raw(7)).
pub(super) fn net_unreachable(offender: &[u8]) -> Option<(Vec<u8>, Ipv4Addr)> {
    let header = header(offender)?;
    let later_fragment = u16::from_be_bytes([offender[6], offender[7]]) & 0x1fff != 0;
    if offender[9] == ICMP || later_fragment {
        return None;
    }
    let sender = address(offender, 12)?;
    let quoted = &offender[..offender.len().min(header + QUOTED)];
    let length = u16::try_from(HEADER + ICMP_HEADER + quoted.len()).ok()?;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, ERROR_TTL, ICMP, 0, 0, 0, 0, 0, 0];
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet.extend(sender.octets());
    packet.extend(NET_UNREACHABLE);
    packet.extend([0; ICMP_HEADER - NET_UNREACHABLE.len()]);
    packet.extend(quoted);
    let sum = checksum::of(&packet[HEADER..]);
    packet[HEADER + 2..HEADER + 4].copy_from_slice(&sum.to_be_bytes());
    Some((packet, sender))
}

/// Returns the length of the packet's IPv4 header.
fn header(packet: &[u8]) -> Option<usize> {
    let first = *packet.first()?;
    let length = usize::from(first & 0xf) * 4;
    (first >> 4 == 4 && length >= HEADER && packet.len() >= length).then_some(length)
}

fn address(packet: &[u8], at: usize) -> Option<Ipv4Addr> {
    let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
    Some(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENDER: Ipv4Addr = Ipv4Addr::new(10, 5, 1, 2);

    /// Builds a packet. Different identifications give different checksums.
    fn packet(protocol: u8, ttl: u8, id: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 32, 0, 0, 0x40, 0, ttl, protocol, 0, 0, 10, 5, 1, 2, 10, 5, 77, 3];
        packet[4..6].copy_from_slice(&id.to_be_bytes());
        let sum = checksum::of(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(1..=12);
        packet
    }

    #[test]
    fn a_decremented_ttl_leaves_a_right_checksum() {
        for id in 0..=u16::MAX {
            let mut packet = packet(17, 64, id);
            assert!(decrement_ttl(&mut packet));
            assert_eq!((packet[8], checksum::of(&packet[..HEADER])), (63, 0), "id {id}");
            let expected = self::packet(17, 63, id);
            assert_eq!(packet, expected, "id {id}");
        }
    }

    #[test]
    fn a_packet_whose_ttl_has_run_out_does_not_go_on() {
        for (ttl, goes_on) in [(0, false), (1, false), (2, true), (255, true)] {
            assert_eq!(decrement_ttl(&mut packet(17, ttl, 7)), goes_on, "TTL {ttl}");
        }
    }

    #[test]
    fn only_ipv4_has_a_destination() {
        let good = packet(17, 64, 7);
        let with = |at: usize, byte: u8| {
            let mut packet = good.clone();
            packet[at] = byte;
            packet
        };
        for (packet, expected) in [
            (good.clone(), Some(Ipv4Addr::new(10, 5, 77, 3))),
            (good[..20].to_vec(), Some(Ipv4Addr::new(10, 5, 77, 3))),
            (good[..19].to_vec(), None),
            (Vec::new(), None),
            (with(0, 0x65), None),
            (with(0, 0x44), None),
            (with(0, 0x4f), None),
        ] {
            assert_eq!(destination(&packet), expected, "{packet:?}");
            assert_eq!(decrement_ttl(&mut packet.clone()), expected.is_some(), "{packet:?}");
        }
    }

    #[test]
    fn the_icmp_error_quotes_the_start_of_the_packet() {
        let offender = packet(17, 64, 7);
        let (icmp, sender) = net_unreachable(&offender).unwrap();
        assert_eq!((icmp.len(), sender), (20 + 8 + 28, SENDER));
        assert_eq!((u16::from_be_bytes([icmp[2], icmp[3]]), icmp[8], icmp[9]), (56, 64, 1));
        assert_eq!((address(&icmp, 12), address(&icmp, 16)), (Some(Ipv4Addr::UNSPECIFIED), Some(SENDER)));
        assert_eq!((&icmp[20..22], &icmp[28..]), (&[3, 0][..], &offender[..28]));
        assert_eq!(checksum::of(&icmp[20..]), 0);
        let (short, _) = net_unreachable(&offender[..24]).unwrap();
        assert_eq!(&short[28..], &offender[..24]);
    }

    #[test]
    fn no_icmp_error_is_sent_about_icmp_later_fragments_or_ipv6() {
        let mut fragment = packet(17, 64, 7);
        assert_eq!(net_unreachable(&packet(1, 64, 7)), None, "ICMP");
        fragment[6..8].copy_from_slice(&[0x20, 0]);
        assert!(net_unreachable(&fragment).is_some(), "a first fragment");
        fragment[6..8].copy_from_slice(&[0x20, 1]);
        assert_eq!(net_unreachable(&fragment), None, "a later fragment");
        assert_eq!(net_unreachable(&[0x60; 40]), None, "IPv6");
    }
}
