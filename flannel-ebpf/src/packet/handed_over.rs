//! A frame that an XDP program has changed, in TC: the kernel's view of it is put right.

use aya_ebpf::bindings::BPF_CSUM_LEVEL_DEC;
use aya_ebpf::helpers::generated::{
    bpf_csum_level, bpf_skb_change_tail, bpf_skb_change_type, bpf_skb_vlan_pop,
};
use flannel_common::outcome::Outcome;

use super::{Header, PACKET_HOST, Packet};

impl Packet<'_> {
    /// What an XDP program has put in front of the frame.
    #[inline(always)]
    pub fn note<T: Header>(&self) -> Option<&T> {
        let start = self.skb().data_meta as usize;
        if start + size_of::<T>() > self.ctx.data() {
            return None;
        }
        // SAFETY: within the metadata (checked above), readable in place (`Header`), and not written to.
        Some(unsafe { &*(start as *const T) })
    }

    /// Takes off what belonged to an outer frame that is gone: the VLAN tag that the NIC has taken out, if any, and a checksum
    /// that was yet to be computed, from namespace to namespace (`bpf_skb_vlan_pop`: Linux 4.3, without a tag too: the
    /// kernel looks where the checksum would begin each time it has moved past an Ethernet header).
    #[inline(always)]
    pub fn forget_outer_frame(&self) {
        // SAFETY: the context is valid for the whole run. Without a tag there is nothing to fail.
        unsafe { bpf_skb_vlan_pop(self.ctx.skb.skb) };
    }

    /// Receives a frame whose outer headers were taken off before the kernel looked at it. The packet is for us, although
    /// the frame is not addressed to the interface; and what the NIC has verified was the outer checksum first
    /// (`bpf_csum_level`: Linux 5.8), as the kernel counts a UDP checksum of 0.
    #[inline(always)]
    pub fn receive(&self) {
        let skb = self.ctx.skb.skb;
        // SAFETY: the context is valid for the whole run. None of these can fail in a way that matters here: a packet
        // without verified checksums has none to take back.
        unsafe {
            bpf_skb_change_type(skb, PACKET_HOST);
            bpf_csum_level(skb, BPF_CSUM_LEVEL_DEC.into());
        }
    }

    /// Forgets a checksum over what is gone (CHECKSUM_COMPLETE), as the kernel does when a frame grows. Frames with the mark
    /// of a tunnel do not grow, and have no such checksum.
    ///
    /// # Errors
    /// [`Outcome::WriteFailed`]: the frame cannot be cut to its length again.
    #[inline(always)]
    pub fn forget_checksum(&self) -> Result<(), Outcome> {
        let skb = self.ctx.skb.skb;
        // SAFETY: the context is valid for the whole run.
        let lost = unsafe {
            bpf_skb_change_tail(skb, self.len + 1, 0) == 0 && bpf_skb_change_tail(skb, self.len, 0) != 0
        };
        if lost { Err(Outcome::WriteFailed) } else { Ok(()) }
    }
}
