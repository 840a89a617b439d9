//! Decapsulation: take the outer headers away, if they are there.

use aya_ebpf::bindings::BPF_F_ADJ_ROOM_FIXED_GSO;
use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;

use crate::ip::Ip;
use crate::packet::{Header, Packet};

/// What is in front of an inner frame.
#[derive(Clone, Copy)]
pub enum Wrapping {
    /// The outer headers.
    Outer,
    /// Nothing: `underlay_xdp` has taken them off, in the driver.
    Gone,
    /// Nothing: it has taken them off in the stack ([`flannel_common::handover::Handover::late`]).
    GoneLate,
}

impl Wrapping {
    /// Where the inner frame begins, in an outer packet with header `H`.
    #[inline(always)]
    pub const fn offset<H: Ip>(self) -> usize {
        match self {
            Self::Outer => EthHdr::LEN + H::OUTER_LEN,
            Self::Gone | Self::GoneLate => 0,
        }
    }
}

/// Removes everything in front of the inner frame, which begins with `front` then, from a packet with header `H`.
///
/// What the kernel knew of the outer checksum is not taken for the inner one: where the driver has verified it, the inner
/// one is verified by its receiver (no `BPF_F_ADJ_ROOM_NO_CSUM_RESET`); where it was yet to be computed, from namespace
/// to namespace, the same (Linux 6.2 and the stable kernels since January 2023: `bpf_skb_generic_pop` pulls before it
/// adjusts the sum); where the inner one is yet to be computed, it still is.
///
/// # Errors
/// [`Outcome::NoRoom`] with the packet as it was; [`Outcome::WriteFailed`] with the packet lost.
#[inline(always)]
pub fn pop<H: Ip, T: Header>(packet: &Packet<'_>, wrapping: Wrapping, front: T) -> Result<(), Outcome> {
    match wrapping {
        // The bytes behind the Ethernet header go; what remains in front is the outer one, overwritten next.
        Wrapping::Outer => {
            packet.adjust(-(wrapping.offset::<H>() as i32), BPF_F_ADJ_ROOM_FIXED_GSO.into())?;
        }
        Wrapping::Gone => packet.receive(),
        Wrapping::GoneLate => {
            packet.receive();
            packet.forget_checksum()?;
        }
    }
    packet.write(0, &front)
}
