//! Decapsulation: take the outer headers away.

use aya_ebpf::bindings::BPF_F_ADJ_ROOM_FIXED_GSO;
use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;

use crate::ip::Ip;
use crate::packet::{Header, Packet};

/// Removes everything in front of the inner frame, which begins with `front` then, from an outer packet with header `H`.
///
/// What the kernel knew of the outer checksum is not taken for the inner one: where the driver has verified it, the inner
/// one is verified by its receiver (no `BPF_F_ADJ_ROOM_NO_CSUM_RESET`); where it was yet to be computed, from namespace
/// to namespace, the same (Linux 6.2 and the stable kernels since January 2023: `bpf_skb_generic_pop` pulls before it
/// adjusts the sum); where the inner one is yet to be computed, it still is.
///
/// # Errors
/// [`Outcome::NoRoom`] with the packet as it was; [`Outcome::WriteFailed`] with the packet lost.
#[inline(always)]
pub fn pop<H: Ip, T: Header>(packet: &Packet<'_>, front: T) -> Result<(), Outcome> {
    // The bytes behind the Ethernet header go; what remains in front is the outer one, overwritten next.
    packet.adjust(-((H::OUTER_LEN + EthHdr::LEN) as i32), BPF_F_ADJ_ROOM_FIXED_GSO.into())?;
    packet.write(0, &front)
}
