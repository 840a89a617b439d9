//! Encapsulation: does it fit, then push the outer headers.

use aya_ebpf::bindings::{
    BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
    BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO,
};
use aya_ebpf::helpers::generated::{bpf_get_hash_recalc, bpf_get_prandom_u32};
use flannel_common::lease::Lease;
use flannel_common::node::Node;
use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;
use network_types::udp::UdpHdr;

use crate::outer::{self, Outer};
use crate::packet::Packet;
use crate::stage::parse::{Inner, TCP, UDP};

/// Whether the packet, or each segment of an aggregate, fits the uplink with the outer headers on.
///
/// # Errors
/// [`Outcome::TooBig`], [`Outcome::GsoUnknown`]: the kernel device fragments, or answers with ICMP.
#[inline(always)]
pub fn fits(packet: &Packet<'_>, inner: &Inner<'_>, node: &Node) -> Result<(), Outcome> {
    let frame = match packet.gso_size() {
        0 => packet.frame_len(),
        payload => headers_of_segment(packet, inner)? + payload,
    };
    // The outer lengths are 16 bits wide: an aggregate beyond them (BIG TCP) is the kernel's to cut.
    let whole = packet.frame_len() + outer::LEN as u32;
    if frame + outer::LEN as u32 > node.uplink_mtu || whole > u16::MAX.into() {
        return Err(Outcome::TooBig);
    }
    Ok(())
}

/// Bytes of Ethernet, IP and transport header that every segment of an aggregate repeats.
#[inline(always)]
fn headers_of_segment(packet: &Packet<'_>, inner: &Inner<'_>) -> Result<u32, Outcome> {
    /// Where TCP keeps its header length, in 32-bit words in the upper nibble.
    const DATA_OFFSET: usize = 12;
    let transport = EthHdr::LEN + inner.ip_header_len();
    let header = match inner.ip.proto {
        TCP => usize::from(*packet.header::<u8>(transport + DATA_OFFSET)? >> 4) * 4,
        UDP => UdpHdr::LEN,
        _ => return Err(Outcome::GsoUnknown),
    };
    Ok((transport + header) as u32)
}

/// Pushes outer IPv4, UDP and VXLAN headers; the Ethernet header in front is the delivery's business.
///
/// # Errors
/// [`Outcome::NoRoom`] with the packet as it was; [`Outcome::WriteFailed`] with the packet lost.
#[inline(always)]
pub fn push(packet: &Packet<'_>, inner: &Inner<'_>, node: &Node, lease: &Lease) -> Result<(), Outcome> {
    // FIXED_GSO: segments fit already (`fits`), so their size stays.
    const FLAGS: u64 = (BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
        | BPF_F_ADJ_ROOM_ENCAP_L4_UDP
        | BPF_F_ADJ_ROOM_ENCAP_L2_ETH
        | BPF_F_ADJ_ROOM_FIXED_GSO) as u64
        | (EthHdr::LEN as u64) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT;
    let headers = Outer {
        source: node.local_ip,
        destination: lease.public_ip,
        source_port: outer::source_port(flow_hash(packet)),
        port: node.port,
        vni: node.vni,
        ecn: inner.ip.tos & outer::ECN,
        // RFC 6864 section 4: a packet that may be fragmented needs an identification.
        identification: random(),
    }
    .before(inner.frame, packet.frame_len() as u16);
    packet.adjust((outer::LEN + EthHdr::LEN) as i32, FLAGS)?;
    packet.write(EthHdr::LEN, &headers)
}

#[inline(always)]
fn flow_hash(packet: &Packet<'_>) -> u32 {
    // SAFETY: the context is valid for the whole run.
    unsafe { bpf_get_hash_recalc(packet.ctx().skb.skb) }
}

#[inline(always)]
fn random() -> u16 {
    // SAFETY: a helper call without pointers.
    unsafe { bpf_get_prandom_u32() as u16 }
}
