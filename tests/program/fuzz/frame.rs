//! A reader of frames, independent of the programs' code.

use etherparse::IpNumber;
use flannel_common::address::Address;
use flannel_common::flow::FlowKey;
use flannel_common::outcome::Hook;

/// Bytes of an Ethernet header.
pub(super) const ETHERNET: usize = 14;
/// Bytes of a UDP header and a VXLAN header.
pub(super) const UDP_AND_VXLAN: usize = 8 + 8;

/// Corrects an IPv4 header checksum, if a header without options follows its EtherType.
pub(super) fn correct_checksum(frame: &mut [u8], at: usize) {
    if word(frame, at - 2) != Some(0x0800) {
        return;
    }
    if let Some(header) = frame.get_mut(at..at + 20) {
        header[10..12].copy_from_slice(&[0; 2]);
        let sum = ones_complement_sum(header);
        header[10..12].copy_from_slice(&(!sum).to_be_bytes());
    }
}

/// Returns whether a header's checksum is right.
pub(super) fn has_right_checksum(header: &[u8]) -> bool {
    ones_complement_sum(header) == 0xffff
}

fn ones_complement_sum(header: &[u8]) -> u16 {
    let words = header.chunks_exact(2).map(|word| u64::from(u16::from_be_bytes([word[0], word[1]])));
    // Carries are added in: the sum modulo 0xffff.
    let sum = words.sum::<u64>();
    match sum % 0xffff {
        0 if sum > 0 => 0xffff,
        rest => rest as u16,
    }
}

/// Returns two bytes as a number, if they are there.
pub(super) fn word(frame: &[u8], at: usize) -> Option<u16> {
    frame.get(at..at + 2).map(|word| u16::from_be_bytes([word[0], word[1]]))
}

/// Fields of an IP header, whose values may be wrong.
pub(super) struct Ip<'a> {
    pub(super) v6: bool,
    pub(super) source: &'a [u8],
    pub(super) destination: &'a [u8],
    pub(super) protocol: u8,
    pub(super) ecn: u8,
    /// Time to live, or hop limit.
    pub(super) ttl: u8,
    /// Bytes of the fixed header.
    pub(super) header: usize,
    /// Bytes of the packet.
    pub(super) length: usize,
    /// No options and no fragment. (IPv6 has these in extension headers, which the protocol shows.)
    pub(super) plain: bool,
}

/// Reads the IP header at this place, if the fixed header is there and follows its EtherType.
pub(super) fn ip(frame: &[u8], at: usize) -> Option<Ip<'_>> {
    match word(frame, at - 2)? {
        0x0800 => ipv4(frame.get(at..at + 20)?),
        0x86dd => ipv6(frame.get(at..at + 40)?),
        _ => None,
    }
}

fn ipv4(header: &[u8]) -> Option<Ip<'_>> {
    let is_fragment = word(header, 6)? & 0x3fff != 0;
    (header[0] >> 4 == 4).then_some(Ip {
        v6: false,
        source: &header[12..16],
        destination: &header[16..],
        protocol: header[9],
        ecn: header[1] & 3,
        ttl: header[8],
        header: 20,
        length: word(header, 2)?.into(),
        plain: header[0] == 0x45 && !is_fragment,
    })
}

fn ipv6(header: &[u8]) -> Option<Ip<'_>> {
    (header[0] >> 4 == 6).then_some(Ip {
        v6: true,
        source: &header[8..24],
        destination: &header[24..],
        protocol: header[6],
        ecn: header[1] >> 4 & 3,
        ttl: header[7],
        header: 40,
        length: usize::from(word(header, 4)?) + 40,
        plain: true,
    })
}

/// Reads the flow of the IP packet at this place, if it is of this family and has its ports and TCP's flags in the frame.
pub(in crate::program) fn flow<A>(frame: &[u8], at: usize, hook: Hook) -> Option<FlowKey<A>>
where
    A: Address + for<'a> TryFrom<&'a [u8]>,
{
    let ip = ip(frame, at)?;
    let transport = frame.get(at + ip.header..)?;
    let needed = match IpNumber(ip.protocol) {
        IpNumber::TCP => 14,
        IpNumber::UDP => 8,
        _ => return None,
    };
    if !ip.plain || transport.len() < needed {
        return None;
    }
    let from = (A::try_from(ip.source).ok()?, [transport[0], transport[1]]);
    let to = (A::try_from(ip.destination).ok()?, [transport[2], transport[3]]);
    let ((pod, pod_port), (remote, remote_port)) = if is_from_pod(hook) { (from, to) } else { (to, from) };
    Some(FlowKey { pod, remote, pod_port, remote_port, protocol: [ip.protocol, 0, 0, 0] })
}

/// Returns the frame with the addresses and ports of the flow with another name, and old checksums.
pub(super) fn with_name<A: Address>(frame: &[u8], at: usize, hook: Hook, name: &FlowKey<A>) -> Vec<u8> {
    let (pod, remote) = ((name.pod, name.pod_port), (name.remote, name.remote_port));
    let (from, to) = if is_from_pod(hook) { (pod, remote) } else { (remote, pod) };
    let (addresses, ports) = ([from.0.as_ref(), to.0.as_ref()].concat(), [from.1, to.1].concat());
    let transport = at + ip(frame, at).expect("it has a flow").header;
    let mut frame = frame.to_vec();
    frame[transport - addresses.len()..transport].copy_from_slice(&addresses);
    frame[transport..transport + 4].copy_from_slice(&ports);
    frame
}

/// Where the checksum of a transport header is.
pub(super) struct TransportChecksum {
    pub(super) place: usize,
    pub(super) is_udp: bool,
}

/// Finds the transport checksum of the IP packet at this place.
pub(super) fn transport_checksum(frame: &[u8], at: usize) -> Option<TransportChecksum> {
    let ip = ip(frame, at)?;
    let is_udp = IpNumber(ip.protocol) == IpNumber::UDP;
    let place = at + ip.header + if is_udp { 6 } else { 16 };
    (frame.len() >= place + 2).then_some(TransportChecksum { place, is_udp })
}

/// Adds all that the transport checksum of the IP packet at this place covers and that a translation changes: the sum stays
/// the same if the checksum stays as right or wrong as it is.
pub(super) fn transport_sum(frame: &[u8], at: usize) -> Option<u16> {
    let ip = ip(frame, at)?;
    Some(ones_complement_sum(&[ip.source, ip.destination, &frame[at + ip.header..]].concat()))
}

/// Returns whether packets at this hook come from pods of this node. If not, they go to them.
pub(in crate::program) const fn is_from_pod(hook: Hook) -> bool {
    match hook {
        Hook::OverlayEgress | Hook::PodEgress | Hook::UnderlayEgress => true,
        Hook::UnderlayIngress
        | Hook::OverlayIngress
        | Hook::PodIngress
        | Hook::UnderlayXdp
        | Hook::SideIngress => false,
    }
}
