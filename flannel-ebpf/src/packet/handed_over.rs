//! TC: frames whose outer headers an XDP program has removed. The kernel's view of them is corrected.

use aya_ebpf::bindings::BPF_CSUM_LEVEL_DEC;
use aya_ebpf::helpers::generated::{
    bpf_csum_level, bpf_skb_change_tail, bpf_skb_change_type, bpf_skb_vlan_pop,
};
use flannel_common::outcome::Outcome;

use super::{Header, PACKET_HOST, Packet};

impl Packet<'_> {
    /// Returns whether an XDP program has written metadata in front of the frame.
    #[inline(always)]
    pub fn has_metadata(&self) -> bool {
        (self.skb().data_meta as usize) < self.ctx.data()
    }

    /// Returns the metadata that an XDP program has written in front of the frame.
    #[inline(always)]
    pub fn metadata<T: Header>(&self) -> Option<&T> {
        let start = self.skb().data_meta as usize;
        if start + size_of::<T>() > self.ctx.data() {
            return None;
        }
        // SAFETY: within the metadata (checked above), readable in place (`Header`), and not written to.
        Some(unsafe { &*(start as *const T) })
    }

    /// Removes what belonged to the outer frame (`bpf_skb_vlan_pop`: Linux 4.3).
    ///
    /// That is the VLAN tag that the NIC has taken out, if any, and a checksum that was to be computed later, as between
    /// namespaces. Without a tag the helper removes such a checksum as well: the kernel checks where it would start
    /// whenever it moves past an Ethernet header.
    #[inline(always)]
    pub fn clear_outer_frame(&self) {
        // SAFETY: the context is valid for the whole run. The helper cannot fail without a tag.
        unsafe { bpf_skb_vlan_pop(self.ctx.skb.skb) };
    }

    /// Marks a frame as received whose outer headers were removed before the kernel read it.
    ///
    /// It is for this host, although not addressed to the interface. And the first of the checksums that the NIC has
    /// verified was the outer one (`bpf_csum_level`: Linux 5.8): the kernel counts a UDP checksum of 0 as well.
    #[inline(always)]
    pub fn mark_received(&self) {
        let skb = self.ctx.skb.skb;
        // SAFETY: the context is valid for the whole run. A failure does not matter: a packet without verified checksums
        // needs no correction.
        unsafe {
            bpf_skb_change_type(skb, PACKET_HOST);
            bpf_csum_level(skb, BPF_CSUM_LEVEL_DEC.into());
        }
    }

    /// Discards a checksum over the removed bytes (CHECKSUM_COMPLETE), as the kernel does when a frame grows.
    ///
    /// Frames that the kernel has marked as encapsulated cannot grow, and have no such checksum.
    ///
    /// # Errors
    /// [`Outcome::WriteFailed`]: the frame cannot be cut to its length again.
    #[inline(always)]
    pub fn discard_checksum(&self) -> Result<(), Outcome> {
        let skb = self.ctx.skb.skb;
        // SAFETY: the context is valid for the whole run.
        let lost = unsafe {
            bpf_skb_change_tail(skb, self.len + 1, 0) == 0 && bpf_skb_change_tail(skb, self.len, 0) != 0
        };
        if lost { Err(Outcome::WriteFailed) } else { Ok(()) }
    }
}
