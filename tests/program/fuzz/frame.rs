//! Frames read with nothing but their bytes, and never beyond their end.

use etherparse::IpNumber;
use flannel_common::flow::FlowKey;
use flannel_common::outcome::Hook;

/// Where the IPv4 header is, and the inner one in VXLAN without options.
pub(super) const IPV4_AT: usize = 14;
pub(super) const INNER_IPV4_AT: usize = VXLAN + IPV4_AT;
/// Bytes in front of the frame that VXLAN carries: Ethernet, IPv4, UDP, VXLAN.
pub(super) const VXLAN: usize = 14 + 20 + 8 + 8;

/// Puts an IPv4 header checksum right, if a header without options is there.
pub(super) fn right_checksum(frame: &mut [u8], at: usize) {
    if let Some(header) = frame.get_mut(at..at + 20) {
        header[10..12].copy_from_slice(&[0; 2]);
        let sum = ones_complement_sum(header);
        header[10..12].copy_from_slice(&(!sum).to_be_bytes());
    }
}

/// Whether a header's checksum is right.
pub(super) fn has_right_checksum(header: &[u8]) -> bool {
    ones_complement_sum(header) == 0xffff
}

fn ones_complement_sum(header: &[u8]) -> u16 {
    let words = header.chunks_exact(2).map(|word| u64::from(u16::from_be_bytes([word[0], word[1]])));
    // What does not fit 16 bits comes in again below.
    let sum = words.sum::<u64>();
    match sum % 0xffff {
        0 if sum > 0 => 0xffff,
        rest => rest as u16,
    }
}

/// Two bytes as a number, if they are there.
pub(super) fn word(frame: &[u8], at: usize) -> Option<u16> {
    frame.get(at..at + 2).map(|word| u16::from_be_bytes([word[0], word[1]]))
}

/// What an IPv4 header says, right or wrong.
pub(super) struct Ipv4 {
    pub(super) source: [u8; 4],
    pub(super) destination: [u8; 4],
    pub(super) protocol: u8,
    pub(super) ecn: u8,
    pub(super) length: usize,
    /// Neither options nor a fragment.
    pub(super) plain: bool,
}

/// The IPv4 header at this place, if the bytes that all have are there behind an EtherType that says so.
pub(super) fn ipv4(frame: &[u8], at: usize) -> Option<Ipv4> {
    let header = frame.get(at..at + 20)?;
    let four = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
    let is_fragment = word(header, 6)? & 0x3fff != 0;
    (word(frame, at - 2)? == 0x0800 && header[0] >> 4 == 4).then_some(Ipv4 {
        source: four(12),
        destination: four(16),
        protocol: header[9],
        ecn: header[1] & 3,
        length: word(header, 2)?.into(),
        plain: header[0] == 0x45 && !is_fragment,
    })
}

/// The flow of the IPv4 packet at this place, if all that names it is in the frame: ports, and TCP's flags.
pub(super) fn flow(frame: &[u8], at: usize, hook: Hook) -> Option<FlowKey> {
    let ip = ipv4(frame, at)?;
    let transport = frame.get(at + 20..)?;
    let needed = match IpNumber(ip.protocol) {
        IpNumber::TCP => 14,
        IpNumber::UDP => 8,
        _ => return None,
    };
    if !ip.plain || transport.len() < needed {
        return None;
    }
    let from = (ip.source, [transport[0], transport[1]]);
    let to = (ip.destination, [transport[2], transport[3]]);
    let ((pod, pod_port), (remote, remote_port)) = match hook {
        Hook::OverlayEgress | Hook::PodEgress => (from, to),
        Hook::UnderlayIngress | Hook::OverlayIngress | Hook::PodIngress => (to, from),
    };
    Some(FlowKey { pod, remote, pod_port, remote_port, protocol: ip.protocol, reserved: [0; 3] })
}
