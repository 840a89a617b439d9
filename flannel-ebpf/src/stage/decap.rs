//! Decapsulation: take the outer headers away.

use aya_ebpf::bindings::BPF_F_ADJ_ROOM_FIXED_GSO;
use flannel_common::outcome::Outcome;

use crate::packet::{Header, Packet};

/// Removes everything in front of the inner frame at `offset`, which begins with `front` then.
///
/// # Errors
/// [`Outcome::NoRoom`] with the packet as it was; [`Outcome::WriteFailed`] with the packet lost.
#[inline(always)]
pub fn pop<T: Header>(packet: &Packet<'_>, offset: usize, front: T) -> Result<(), Outcome> {
    // The bytes behind the Ethernet header go; what remains in front is the outer one, overwritten next.
    if offset != 0 {
        packet.adjust(-(offset as i32), BPF_F_ADJ_ROOM_FIXED_GSO.into())?;
    }
    packet.write(0, &front)
}
