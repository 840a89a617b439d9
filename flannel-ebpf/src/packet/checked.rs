//! The note on a packet whose sender was checked, from where it came in to the vxlan device.
//!
//! Two fields of the packet carry it, since each is lost on one of the ways. `tc_index` gets lost where a filter of others
//! on clsact accepts the packet after the agent's programs. The upper half of `priority` gets lost when a program redirects
//! the packet to the vxlan device (linux/netdevice.h, `____dev_forward_skb`). The kernel changes neither of them otherwise
//! until its device has unwrapped the packet; what reassembles fragments takes both from the first one.
//!
//! Nothing of another node can set them. A pod that may configure its own interfaces can set `tc_index` (`classid` of a
//! filter), but not `priority`, which the kernel clears when a packet leaves the pod. So programs take the note from each
//! packet that comes in. Where none is attached yet, the note is a random number that a pod would have to guess.
//!
//! Where the kernel unwraps packets, it may merge those of a flow into one (GRO), which has the note of the first. It merges
//! only packets of equal hash, so a packet with the note gets a hash that no other can know.

use aya_ebpf::helpers::generated::{bpf_get_hash_recalc, bpf_set_hash};

use super::{Packet, PacketAccess as _};
use crate::maps::NodeRef;

/// The part of a priority that is no note.
const PRIORITY: u32 = 0xffff;

impl Packet<'_> {
    /// Notes that the packet's sender was checked.
    #[inline(always)]
    pub fn note_checked(&self, node: NodeRef) {
        let note = u32::from(node.checked_note());
        let skb = self.ctx.skb.skb;
        // SAFETY: the kernel passes a valid context to every program run and lets TC programs write these fields, as whole
        // words.
        unsafe {
            (&raw mut (*skb).tc_index).write_volatile(note);
            let priority = (&raw const (*skb).priority).read_volatile();
            (&raw mut (*skb).priority).write_volatile(priority & PRIORITY | note << 16);
        }
    }

    /// Does the same for a packet that the kernel unwraps, and keeps it apart from packets without the note (`bpf_set_hash`:
    /// Linux 4.10). An aggregate is not merged again.
    #[inline(always)]
    pub fn note_checked_for_device(&self, node: NodeRef) {
        self.note_checked(node);
        if self.gso_size() != 0 {
            return;
        }
        let skb = self.ctx.skb.skb;
        // SAFETY: the kernel passes a valid context to every program run.
        unsafe {
            let hash = bpf_get_hash_recalc(skb) ^ u32::from_ne_bytes(node.handover_key());
            bpf_set_hash(skb, hash);
        }
    }

    /// Returns false if the packet has no note of any overlay, as most that come in: a note is odd, a token even.
    #[inline(always)]
    pub fn may_have_note(&self) -> bool {
        let skb = self.skb();
        (skb.tc_index | skb.priority >> 16) & 1 != 0
    }

    /// Removes the note, but not that of another overlay. Returns whether there was one.
    #[inline(always)]
    pub fn take_note(&self, node: NodeRef) -> bool {
        let note = u32::from(node.checked_note());
        let skb = self.ctx.skb.skb;
        // SAFETY: as in `note_checked`.
        unsafe {
            let index = (&raw const (*skb).tc_index).read_volatile();
            let priority = (&raw const (*skb).priority).read_volatile();
            if index == note {
                (&raw mut (*skb).tc_index).write_volatile(0);
            }
            if priority >> 16 == note {
                (&raw mut (*skb).priority).write_volatile(priority & PRIORITY);
            }
            index == note || priority >> 16 == note
        }
    }
}
