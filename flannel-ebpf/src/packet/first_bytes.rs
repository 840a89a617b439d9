//! Writing to a frame.

use core::ptr;

use flannel_common::node::FEATURE_XDP;
use flannel_common::outcome::Outcome;

use super::{Aligned, Ethernet, Header, Packet, memory};
use crate::features::has;

/// The first bytes of a frame, which can be written.
pub struct FirstBytes<'a> {
    pub(super) packet: &'a Packet<'a>,
    pub(super) start: *mut u8,
    pub(super) len: usize,
}

impl FirstBytes<'_> {
    /// Writes a header at `offset`.
    ///
    /// # Errors
    /// [`Outcome::WriteFailed`]: the frame is lost if it has been resized, or written to.
    #[inline(always)]
    pub fn write<T: Header>(&self, offset: usize, header: &Aligned<T>) -> Result<(), Outcome> {
        assert!(offset + size_of::<T>() <= self.len, "not within the first bytes");
        if self.packet.needs_metadata && has(FEATURE_XDP) {
            return self.packet.write_from(offset, ptr::from_ref(header).cast(), size_of::<T>());
        }
        // SAFETY: within the frame (checked above and in `Packet::first_bytes`; the compiler knows these numbers).
        unsafe { memory::store(self.start.add(offset), header) };
        Ok(())
    }

    /// Writes an Ethernet header at `offset`.
    ///
    /// # Errors
    /// As for [`Self::write`].
    #[inline(always)]
    pub fn write_ethernet(&self, offset: usize, frame: &Ethernet) -> Result<(), Outcome> {
        self.write(offset, &Aligned(frame.macs))?;
        self.write(offset + size_of_val(&frame.macs), &Aligned(frame.ether_type))
    }
}
