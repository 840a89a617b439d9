//! Frames in XDP programs: bytes in one piece, without what the kernel finds out later.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_meta};
use aya_ebpf::programs::XdpContext;
use flannel_common::outcome::Outcome;

use super::{Header, PacketAccess, frame_accessors};
use crate::maps::NodeRef;

/// A frame in an XDP program, from its Ethernet header on.
pub struct DriverPacket<'a> {
    ctx: &'a XdpContext,
    len: u32,
}

impl<'a> DriverPacket<'a> {
    /// Wraps the context of a program run.
    #[inline(always)]
    pub fn new(ctx: &'a XdpContext) -> Self {
        Self { ctx, len: (ctx.data_end() - ctx.data()) as u32 }
    }

    /// Writes metadata in front of the frame, for TC programs (`bpf_xdp_adjust_meta`: Linux 4.15). [`Self::shrink`] moves
    /// it along.
    ///
    /// # Errors
    /// [`Outcome::NoRoom`]: the driver has no room for metadata. The frame is as before.
    #[inline(always)]
    pub fn write_metadata<T: Header>(&self, metadata: &T) -> Result<(), Outcome> {
        // SAFETY: the context is valid for the whole run.
        let moved = unsafe { bpf_xdp_adjust_meta(self.ctx.ctx, -(size_of::<T>() as i32)) };
        let (start, end) = (self.ctx.metadata(), self.ctx.metadata_end());
        if moved != 0 || start + size_of::<T>() > end {
            return Err(Outcome::NoRoom);
        }
        // SAFETY: within the metadata (checked above), whose alignment does not matter.
        unsafe { core::ptr::write_unaligned(start as *mut T, core::ptr::read(metadata)) };
        Ok(())
    }

    /// Removes the first `by` bytes of the frame (`bpf_xdp_adjust_head`: Linux 4.10).
    ///
    /// # Errors
    /// [`Outcome::NoRoom`]: less than an Ethernet header would be left. The frame is as before.
    #[inline(always)]
    pub fn shrink(&self, by: usize) -> Result<(), Outcome> {
        // SAFETY: the context is valid for the whole run.
        let moved = unsafe { bpf_xdp_adjust_head(self.ctx.ctx, by as i32) };
        if moved == 0 { Ok(()) } else { Err(Outcome::NoRoom) }
    }
}

impl PacketAccess for DriverPacket<'_> {
    const PASS: i32 = XDP_PASS as i32;
    const DROP: i32 = XDP_DROP as i32;

    frame_accessors!(XdpContext);

    #[inline(always)]
    fn gso_size(&self) -> u32 {
        0
    }

    #[inline(always)]
    fn is_for_host(&self, node: NodeRef) -> bool {
        self.ethernet(0).is_ok_and(|frame| frame.destination() == node.uplink_mac())
    }

    /// Only TC sees a tag that the NIC has taken out.
    #[inline(always)]
    fn is_untagged(&self) -> bool {
        true
    }

    #[inline(always)]
    fn pull(&self, _: u32) {}
}
