//! Encapsulation: pushes the outer headers.

use aya_ebpf::bindings::{
    BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
    BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO,
};
use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;
use network_types::ip::Ipv4Hdr;

use crate::maps;
use crate::outer::{self, EncapParams};
use crate::packet::{Aligned, PacketAccess as _};
use crate::stage::ecn;
use crate::stage::outgoing::Outgoing;
use crate::stage::route::Routed;

/// Pushes outer IPv4, UDP and VXLAN headers in front of an inner frame, and lets it begin with `front`. Delivery writes the
/// Ethernet header before them.
///
/// # Errors
/// [`Outcome::NoRoom`] with the packet as it was; [`Outcome::WriteFailed`] with the packet lost.
#[inline(always)]
pub fn push(outgoing: &Outgoing<'_, Ipv4Hdr>, front: &Routed<Ipv4Hdr>) -> Result<(), Outcome> {
    // FIXED_GSO: segments keep their size, since they fit (`fit::uplink`).
    const FLAGS: u64 = (BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
        | BPF_F_ADJ_ROOM_ENCAP_L4_UDP
        | BPF_F_ADJ_ROOM_ENCAP_L2_ETH
        | BPF_F_ADJ_ROOM_FIXED_GSO) as u64
        | (EthHdr::LEN as u64) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT;
    let Outgoing { packet, inner, node, peer, mark } = *outgoing;
    let headers = EncapParams {
        source: node.v4().local_ip(),
        destination: peer,
        source_port: outer::source_port(packet.flow_hash()),
        port: node.port(),
        vni: node.vni(),
        mark,
        ecn: inner.ip.tos & ecn::FIELD,
        ttl: node.ttl() as u8,
        // RFC 6864 section 4: a packet that may be fragmented needs an identification.
        identification: maps::next_identification(),
    }
    .headers(packet.frame_len() as u16);
    const FRAME: usize = EthHdr::LEN + outer::LEN;
    packet.adjust(FRAME as i32, FLAGS)?;
    let bytes = packet.first_bytes(FRAME + EthHdr::LEN + Ipv4Hdr::LEN)?;
    bytes.write(EthHdr::LEN, &Aligned(headers))?;
    bytes.write_ethernet(FRAME, &front.frame)?;
    front.write_ip(&bytes, FRAME + EthHdr::LEN)
}
