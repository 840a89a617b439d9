//! The outer headers: IPv4, UDP and VXLAN (RFC 7348 section 5). Pure; tested on the host.
//!
//! ```
//! use flannel_ebpf::outer::{EncapParams, LEN};
//! use flannel_ebpf::packet::Header as _;
//!
//! let params = EncapParams {
//!     source: [192, 168, 64, 1],
//!     destination: [192, 168, 64, 2],
//!     source_port: 40000,
//!     port: 8472_u16.to_be_bytes(),
//!     vni: 1,
//!     mark: 0,
//!     ecn: 0,
//!     ttl: 64,
//!     identification: 0,
//! };
//! let headers = params.headers(98);
//! assert_eq!(headers.bytes().len(), LEN);
//! assert_eq!(headers.bytes()[2..4], 134_u16.to_be_bytes(), "length of the outer packet");
//! ```

use flannel_common::checksum;
use network_types::ip::{IpProto, Ipv4Hdr};
use network_types::udp::UdpHdr;
use network_types::vxlan::VxlanHdr;

use crate::group;
use crate::packet::Header;

/// Bytes of outer headers between the outer Ethernet header and the inner frame.
pub const LEN: usize = Ipv4Hdr::LEN + UdpHdr::LEN + VxlanHdr::LEN;

/// What encapsulation writes between the outer Ethernet header and the inner one.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct EncapHeaders {
    ip: Ipv4Hdr,
    udp: UdpHdr,
    vxlan: VxlanHdr,
}

// SAFETY: headers in a row without padding (asserted below), which consist of bytes.
unsafe impl Header for EncapHeaders {}
const _: () = assert!(size_of::<EncapHeaders>() == LEN);

/// Values for the outer headers.
pub struct EncapParams {
    /// This node's address on the underlay.
    pub source: [u8; 4],
    /// The peer's public address.
    pub destination: [u8; 4],
    /// UDP source port, derived from the inner flow, so that the underlay can spread flows.
    pub source_port: u16,
    /// UDP destination port, wire order.
    pub port: [u8; 2],
    /// VXLAN network identifier.
    pub vni: u32,
    /// The inner packet's mark, which makes its group ([`group::header`]); 0 without group policy.
    pub mark: u32,
    /// ECN code point of the inner packet, copied (RFC 6040 section 4.1, normal mode).
    pub ecn: u8,
    /// Time to live.
    pub ttl: u8,
    /// IPv4 identification.
    pub identification: u16,
}

impl EncapParams {
    /// Makes the headers for an inner frame of `frame_len` bytes.
    ///
    /// The UDP checksum is 0, as flannel's peers send it: hardware that computes one for encapsulated packets has corrupted
    /// them (flannel issues 1279 and 2152).
    #[inline(always)]
    pub fn headers(&self, frame_len: u16) -> EncapHeaders {
        let udp_len = frame_len + (UdpHdr::LEN + VxlanHdr::LEN) as u16;
        EncapHeaders {
            ip: self.ipv4(udp_len + Ipv4Hdr::LEN as u16),
            udp: UdpHdr {
                src: self.source_port.to_be_bytes(),
                dst: self.port,
                len: udp_len.to_be_bytes(),
                check: [0; 2],
            },
            vxlan: group::header(self.vni, self.mark),
        }
    }

    #[inline(always)]
    fn ipv4(&self, tot_len: u16) -> Ipv4Hdr {
        let mut ip = Ipv4Hdr {
            vihl: 0x45,
            tos: self.ecn,
            tot_len: tot_len.to_be_bytes(),
            id: self.identification.to_be_bytes(),
            frags: [0; 2],
            ttl: self.ttl,
            proto: IpProto::Udp as u8,
            check: [0; 2],
            src_addr: self.source,
            dst_addr: self.destination,
        };
        ip.check = checksum::of(ip.bytes()).to_be_bytes();
        ip
    }
}

/// Returns the UDP source port for a flow: like the kernel (`udp_flow_src_port`), from the default local port range.
#[inline(always)]
#[must_use]
pub fn source_port(flow_hash: u32) -> u16 {
    const FIRST: u16 = 32768;
    const LAST: u16 = 60999;
    // The multiplication uses mostly the upper half, so the lower one is mixed in.
    let hash = flow_hash ^ (flow_hash << 16);
    FIRST + ((u64::from(hash) * u64::from(LAST - FIRST + 1)) >> 32) as u16
}

/// Returns the IPv4 identification of the next packet that this CPU wraps: it must be unlike those of packets to the same
/// address that are still on their way (RFC 6864 section 4.3).
///
/// A CPU repeats none within 65536 packets. The multiplier, which is odd, gives each CPU an order of its own, so that two of them
/// do not use the same ones at the same time, wherever their counters are.
#[inline(always)]
#[must_use]
pub const fn identification(packets: u32, cpu: u32) -> u16 {
    // Odd, and near the golden ratio times 2^16: neighbours differ in the upper byte, which the shift mixes into the lower one.
    const SPREAD: u16 = 0x9e37;
    let mixed = (packets as u16).wrapping_mul(SPREAD);
    (mixed ^ mixed >> 8).wrapping_mul((cpu as u16) << 1 | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params() -> EncapParams {
        EncapParams {
            source: [192, 168, 64, 1],
            destination: [192, 168, 64, 2],
            source_port: 40000,
            port: 8472u16.to_be_bytes(),
            vni: 1,
            mark: 0,
            ecn: 0b10,
            ttl: 64,
            identification: 0x1234,
        }
    }

    #[test]
    fn headers_have_the_layout_of_the_rfc() {
        let headers = params().headers(100);
        let bytes = headers.bytes();
        #[rustfmt::skip]
        let expected = [
            0x45, 0x02, 0, 136, 0x12, 0x34, 0, 0, 64, 17, 0, 0, 192, 168, 64, 1, 192, 168, 64, 2,
            0x9c, 0x40, 0x21, 0x18, 0, 116, 0, 0,
            0x08, 0, 0, 0, 0, 0, 1, 0,
        ];
        assert_eq!(bytes[..10], expected[..10]);
        assert_eq!(bytes[12..], expected[12..]);
    }

    #[test]
    fn the_header_checksum_is_right() {
        for tot_len in [0, 20, 136, 1500, u16::MAX] {
            let mut ip = params().ipv4(tot_len);
            assert_eq!(checksum::of(ip.bytes()), 0, "length {tot_len}");
            ip.ttl -= 1;
            assert_ne!(checksum::of(ip.bytes()), 0, "length {tot_len}");
        }
    }

    #[test]
    fn a_cpu_repeats_no_identification_and_shares_no_sequence() {
        let sequences: Vec<Vec<u16>> =
            (0..16).map(|cpu| (0..1 << 16).map(|packets| identification(packets, cpu)).collect()).collect();
        // When each CPU uses an identification, as the value of its counter.
        let moments = sequences.iter().map(|sequence| {
            let mut moments = vec![None; 1 << 16];
            for (moment, identification) in sequence.iter().enumerate() {
                let earlier = moments[usize::from(*identification)].replace(moment);
                assert_eq!(earlier, None, "{identification} twice");
            }
            moments.into_iter().flatten().collect::<Vec<_>>()
        });
        let moments: Vec<_> = moments.collect();
        for (cpu, ours) in moments.iter().enumerate() {
            for theirs in &moments[..cpu] {
                // By how much their counters differ when they use the same one. Random sequences: each distance once.
                let mut distances = vec![0_u32; 1 << 16];
                for (our, their) in ours.iter().zip(theirs) {
                    distances[our.wrapping_sub(*their) & 0xffff] += 1;
                }
                let most = distances.into_iter().max().unwrap();
                assert!(most <= 128, "CPU {cpu}: {most} of 65536 at one distance");
            }
        }
    }

    #[test]
    fn source_ports_stay_in_the_local_range_and_spread() {
        assert_eq!(source_port(0), 32768);
        assert_eq!(source_port(0xffff_0000), 60999);
        let ports: std::collections::BTreeSet<u16> =
            (0..1000u32).map(|flow| source_port(flow.wrapping_mul(0x9e37_79b9))).collect();
        assert!(ports.iter().all(|port| (32768..=60999).contains(port)));
        assert!(ports.len() > 900, "only {} ports for 1000 flows", ports.len());
    }
}
