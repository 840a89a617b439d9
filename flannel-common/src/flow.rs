//! The flow cache: flows between pods of this node and pods of other nodes.
//!
//! A direction of a flow may skip the host stack once one of its packets has entered the stack and left it unchanged: no
//! rule dropped it, and nothing translated its addresses. This proof holds for [`PROOF_NS`]. Then packets go through the
//! stack again, until one leaves it.
//!
//! ```
//! use flannel_common::flow::{PROOF_NS, Passage};
//!
//! let mut passage = Passage::default();
//! passage.enter(1_000);
//! assert!(passage.leave(2_000), "the packet that entered has come out");
//! assert!(passage.is_proven(3_000));
//! assert!(!passage.is_proven(2_000 + PROOF_NS), "the proof has expired");
//! ```

use crate::address::{Address, V4, V6};

/// How long a proof holds, in nanoseconds. A firewall change takes effect within this time, and the connection tracker
/// sees a packet of a busy flow this often.
pub const PROOF_NS: u64 = 10_000_000_000;

/// Longest time in the stack, in nanoseconds. A packet that leaves later is not the one that entered.
pub const TRANSIT_NS: u64 = 1_000_000_000;

/// A flow, seen from its pod on this node: key of `FLOWS` and `FLOWS6`. All in wire order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey<A: Address> {
    /// Address of the pod on this node.
    pub pod: A,
    /// Address of the pod on another node.
    pub remote: A,
    /// TCP or UDP port of the pod.
    pub pod_port: [u8; 2],
    /// TCP or UDP port of the remote pod.
    pub remote_port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// 0.
    pub reserved: [u8; 3],
}

/// Direction of a packet, seen from the pod on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the pod.
    Egress,
    /// To the pod.
    Ingress,
}

/// What is known of a flow: value of `FLOWS` and `FLOWS6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// From the pod through the stack to the vxlan device or the uplink.
    pub egress: Passage,
    /// From the vxlan device or the uplink through the stack to the pod.
    pub ingress: Passage,
    /// Where the pod is.
    pub port: Port,
}

/// One direction of a flow through the host stack. Times are nanoseconds of CLOCK_MONOTONIC, coarse.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passage {
    /// When a packet last entered the stack; 0: never.
    pub entered: u64,
    /// When a packet last left the stack unchanged; 0: never.
    pub left: u64,
    /// With group policy: the packets' mark as VXLAN carries it, on leaving the stack (egress) or entering it (ingress).
    /// Without: 0.
    pub mark: u32,
    /// 0.
    pub reserved: u32,
}

/// A pod's bridge port, and the MACs of the pod and its gateway.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// ifindex of the pod-side bridge port; 0: not seen yet.
    pub ifindex: u32,
    /// The pod's MAC.
    pub pod_mac: [u8; 6],
    /// The MAC that the pod sends to, which is the bridge's.
    pub gateway_mac: [u8; 6],
}

impl Passage {
    /// Notes that a packet enters the stack.
    #[inline(always)]
    pub const fn enter(&mut self, now: u64) {
        if self.entered < now {
            self.entered = now;
        }
    }

    /// Notes that packets with this mark enter the stack.
    ///
    /// If the mark differs from the last one, the proof is void: rules may pass one group and not another. Packets with
    /// the old mark may still be in the stack and must not prove the new one, so that none counts as entered until they
    /// are gone.
    #[inline(always)]
    pub const fn expect(&mut self, mark: u32, now: u64) {
        if self.mark != mark {
            let old_ones_are_gone = now.saturating_sub(self.entered) >= TRANSIT_NS;
            let entered = if old_ones_are_gone { self.entered } else { now + TRANSIT_NS };
            *self = Self { entered, left: 0, mark, reserved: 0 };
        }
    }

    /// Notes that a packet has left the stack unchanged. Returns false if none is known to have entered it.
    #[inline(always)]
    pub const fn leave(&mut self, now: u64) -> bool {
        let has_entered = self.entered != 0 && now.wrapping_sub(self.entered) < TRANSIT_NS;
        if has_entered {
            self.left = now;
        }
        has_entered
    }

    /// Returns whether a packet has ever passed.
    #[inline(always)]
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.left != 0
    }

    /// Returns whether the proof still holds.
    #[inline(always)]
    #[must_use]
    pub const fn is_proven(&self, now: u64) -> bool {
        self.is_known() && now.wrapping_sub(self.left) < PROOF_NS
    }
}

const _: () = assert!(size_of::<FlowKey<V4>>() == 16 && align_of::<FlowKey<V4>>() == 1);
const _: () = assert!(size_of::<FlowKey<V6>>() == 40 && align_of::<FlowKey<V6>>() == 1);
const _: () = assert!(size_of::<Port>() == 16 && align_of::<Port>() == 4);
const _: () = assert!(size_of::<Flow>() == 64 && align_of::<Flow>() == 8);

#[cfg(feature = "user")]
// SAFETY: repr(C), bytes only for either of the types that can be `A` (16 or 40, asserted above), every bit pattern is
// valid.
unsafe impl<A: Address> aya::Pod for FlowKey<A> {}
#[cfg(feature = "user")]
// SAFETY: repr(C), no padding (asserted above: 2 * 24 + 16), every bit pattern is valid.
unsafe impl aya::Pod for Flow {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_needs_a_packet_that_entered_just_before() {
        let mut passage = Passage::default();
        assert!(!passage.leave(5), "nothing entered");
        passage.enter(1_000);
        assert!(!passage.leave(1_000 + TRANSIT_NS), "too late to be the same packet");
        assert!(!passage.is_known());
        passage.enter(2_000);
        assert!(passage.leave(2_001));
        assert!(passage.is_proven(2_001 + PROOF_NS - 1));
        assert!(!passage.is_proven(2_001 + PROOF_NS), "the proof has expired");
        assert!(passage.is_known(), "a packet has passed once");
    }

    #[test]
    fn packets_of_one_group_prove_nothing_for_another() {
        const START: u64 = 10 * TRANSIT_NS;
        let mut passage = Passage::default();
        passage.expect(1, START);
        passage.enter(START);
        assert!(passage.leave(START + 1), "no packets of another group to wait for");
        for again in 0..5 {
            let now = START + 2 + again;
            passage.expect(2 + (again & 1) as u32, now);
            passage.enter(now);
            assert!(!passage.leave(now) && !passage.is_known(), "it may be a packet of the other group");
        }
        let now = START + 6 + TRANSIT_NS;
        passage.expect(2, now - 1);
        passage.enter(now - 1);
        assert!(!passage.leave(now - 1));
        passage.expect(2, now);
        passage.enter(now);
        assert!(passage.leave(now + 1) && passage.is_proven(now + 1), "packets of other groups are gone");
        passage.expect(3, now + 1 + TRANSIT_NS);
        assert!(!passage.is_known());
        passage.enter(now + 1 + TRANSIT_NS);
        assert!(passage.leave(now + 1 + TRANSIT_NS), "no packet of another group was on its way");
    }
}
