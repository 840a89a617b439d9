//! Decapsulation: removes the outer headers.

use aya_ebpf::bindings::BPF_F_ADJ_ROOM_FIXED_GSO;
use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;

use crate::ip::Ip;
use crate::packet::Packet;
use crate::stage::route::Routed;

/// Whether the outer headers are there.
#[derive(Clone, Copy)]
pub enum OuterHeaders {
    /// They are in front of the inner frame.
    Present,
    /// `underlay_xdp` has removed them in the driver.
    RemovedByDriver,
    /// `underlay_xdp` has removed them in the stack ([`flannel_common::handover::Handover::late`]).
    RemovedByStack,
}

impl OuterHeaders {
    /// Returns where the inner frame begins, in an outer packet with header `H`.
    #[inline(always)]
    pub const fn inner_offset<H: Ip>(self) -> usize {
        match self {
            Self::Present => EthHdr::LEN + H::OUTER_LEN,
            Self::RemovedByDriver | Self::RemovedByStack => 0,
        }
    }
}

/// Removes everything in front of the inner frame of a packet with header `H`, and lets the frame begin with these headers.
///
/// What the kernel knows of the outer checksum does not count for the inner one:
/// - If the driver has verified the outer one, the receiver verifies the inner one (no `BPF_F_ADJ_ROOM_NO_CSUM_RESET`).
/// - If the outer one was to be computed later, as between namespaces, the same holds (Linux 6.2, and stable kernels since
///   January 2023: `bpf_skb_generic_pop` pulls before it adjusts the sum).
/// - If the inner one is to be computed later, it still is.
///
/// # Errors
/// [`Outcome::NoRoom`] with the packet as it was; [`Outcome::WriteFailed`] with the packet lost.
#[inline(always)]
pub fn pop<H: Ip>(packet: &Packet<'_>, outer: OuterHeaders, front: &Routed<H>) -> Result<(), Outcome> {
    match outer {
        // The bytes after the outer Ethernet header go. `front` overwrites that header.
        OuterHeaders::Present => {
            packet.adjust(-(outer.inner_offset::<H>() as i32), BPF_F_ADJ_ROOM_FIXED_GSO.into())?;
        }
        OuterHeaders::RemovedByDriver => packet.mark_received(),
        OuterHeaders::RemovedByStack => {
            packet.mark_received();
            packet.discard_checksum()?;
        }
    }
    front.write(packet)
}
