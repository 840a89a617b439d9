//! The flow cache: flows between pods of this node and pods of other nodes.
//!
//! A direction of a flow may skip the host stack once one of its packets has entered the stack and left it unchanged: no
//! rule dropped it, and nothing rewrote it ([`crate::fingerprint`]). This proof holds for [`PROOF_NS`]. Then packets go
//! through the stack again, until one leaves it.
//!
//! ```
//! use flannel_common::fingerprint::Digest;
//! use flannel_common::flow::{PROOF_NS, Passage, Passed};
//!
//! let (sent, rewritten) = (Digest::START.with(1).finish(false), Digest::START.with(2).finish(false));
//! let mut passage = Passage::default();
//! passage.enter(sent, 1_000);
//! assert_eq!(passage.leave(sent, sent.token(), 2_000), Passed::Proven, "the packet that entered has come out");
//! assert!(passage.is_proven(3_000));
//! assert!(!passage.is_proven(2_000 + PROOF_NS), "the proof has expired");
//!
//! assert_eq!(passage.leave(rewritten, sent.token(), 4_000), Passed::Changed, "a rule rewrites packets");
//! assert!(!passage.is_proven(4_000));
//! ```

use crate::address::{Address, V4, V6};
use crate::fingerprint::{Digest, Fingerprint, Token};

/// How long a proof holds, in nanoseconds. A firewall change takes effect within this time, and the connection tracker
/// sees a packet of a busy flow this often.
pub const PROOF_NS: u64 = 10_000_000_000;

/// Longest time in the stack, in nanoseconds. A packet that leaves later proves nothing.
pub const TRANSIT_NS: u64 = 1_000_000_000;

/// How long a sample is waited for, in nanoseconds, until the next packet takes its place. A sample may be lost.
pub const SAMPLE_NS: u64 = 10_000_000;

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
    /// IP protocol number, and three zeroes. (In a field of their own, a program would call a function to clear them.)
    pub protocol: [u8; 4],
}

/// Direction of a packet, seen from the pod on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the pod.
    Egress,
    /// To the pod.
    Ingress,
}

impl<A: Address> FlowKey<A> {
    /// Begins a fingerprint with the flow, so that a packet that was translated does not look like one of this flow.
    #[inline(always)]
    #[must_use]
    pub fn digest(&self) -> Digest {
        let [[a, b], [c, d]] = [self.pod_port, self.remote_port];
        Digest::START
            .with_bytes(self.pod.as_ref())
            .with_bytes(self.remote.as_ref())
            .with_bytes(&[a, b, c, d])
            .with_bytes(&self.protocol)
    }
}

impl Direction {
    /// Returns the other direction.
    #[inline(always)]
    #[must_use]
    pub const fn reverse(self) -> Self {
        match self {
            Self::Egress => Self::Ingress,
            Self::Ingress => Self::Egress,
        }
    }
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
///
/// One packet at a time is the sample: it is noted where it enters the stack, and proves the flow where it leaves.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passage {
    /// When the last sample entered the stack; 0: none has.
    pub entered: u64,
    /// When a packet last left the stack, as `changed` says; 0: never.
    pub left: u64,
    /// [`Fingerprint`] of the sample; 0: the next packet becomes the sample.
    pub sample: u64,
    /// With group policy: the packets' mark as VXLAN carries it, on leaving the stack (egress) or entering it (ingress).
    /// Without: 0.
    pub mark: u32,
    /// 0: the packet that left last was the sample, unchanged. 1: it was a packet that the stack had changed or made.
    pub changed: u32,
}

/// What a packet that leaves the host stack says of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// It is the sample, unchanged.
    Proven,
    /// The stack has changed or made it.
    Changed,
    /// Nothing.
    Unknown,
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
    /// Notes that a packet enters the stack. It becomes the sample unless an earlier one is still waited for.
    #[inline(always)]
    pub const fn enter(&mut self, packet: Fingerprint, now: u64) {
        let waits = self.sample != 0 && now.saturating_sub(self.entered) < SAMPLE_NS;
        if !waits && self.entered <= now {
            self.entered = now;
            self.sample = packet.0;
        }
    }

    /// Notes that packets with this mark enter the stack.
    ///
    /// If the mark differs from the last one, the proof is void: rules may pass one group and not another. Packets with
    /// the old mark may still be in the stack and must not prove the new one, so that none becomes the sample until they
    /// are gone.
    #[inline(always)]
    pub const fn expect(&mut self, mark: u32, now: u64) {
        if self.mark != mark {
            let old_ones_are_gone = now.saturating_sub(self.entered) >= TRANSIT_NS;
            let entered = if old_ones_are_gone { self.entered } else { now + TRANSIT_NS };
            *self = Self { entered, left: 0, sample: 0, mark, changed: 0 };
        }
    }

    /// Notes that a packet leaves the stack. `token`: the one that it carries since it entered.
    ///
    /// The first packet that is changed ends the proof. From then on, the flow is proven only when none has been changed
    /// for [`PROOF_NS`].
    #[inline(always)]
    pub const fn leave(&mut self, packet: Fingerprint, token: Token, now: u64) -> Passed {
        let has_entered = self.entered != 0 && now.wrapping_sub(self.entered) < TRANSIT_NS;
        let is_changed = match packet.compare(token) {
            Some(is_same) => !is_same,
            // Made here, while packets of the flow went in: by a proxy.
            None if token.is_none() => has_entered,
            None => return Passed::Unknown,
        };
        if is_changed {
            (self.left, self.changed) = (now, 1);
            return Passed::Changed;
        }
        if !has_entered || self.sample != packet.0 {
            return Passed::Unknown;
        }
        self.sample = 0;
        if self.is_changed(now) {
            return Passed::Unknown;
        }
        (self.left, self.changed) = (now, 0);
        Passed::Proven
    }

    /// Returns whether a packet has passed unchanged, and none was changed since.
    #[inline(always)]
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.left != 0 && self.changed == 0
    }

    /// Returns whether the proof still holds.
    #[inline(always)]
    #[must_use]
    pub const fn is_proven(&self, now: u64) -> bool {
        self.is_known() && now.wrapping_sub(self.left) < PROOF_NS
    }

    /// Returns whether the stack changed a packet not long ago.
    #[inline(always)]
    #[must_use]
    pub const fn is_changed(&self, now: u64) -> bool {
        self.changed != 0 && now.wrapping_sub(self.left) < PROOF_NS
    }
}

const _: () = assert!(size_of::<FlowKey<V4>>() == 16 && align_of::<FlowKey<V4>>() == 1);
const _: () = assert!(size_of::<FlowKey<V6>>() == 40 && align_of::<FlowKey<V6>>() == 1);
const _: () = assert!(size_of::<Port>() == 16 && align_of::<Port>() == 4);
const _: () = assert!(size_of::<Flow>() == 80 && align_of::<Flow>() == 8);

#[cfg(feature = "user")]
// SAFETY: repr(C), bytes only for either of the types that can be `A` (16 or 40, asserted above), every bit pattern is
// valid.
unsafe impl<A: Address> aya::Pod for FlowKey<A> {}
#[cfg(feature = "user")]
// SAFETY: repr(C), no padding (asserted above: 2 * 32 + 16), every bit pattern is valid.
unsafe impl aya::Pod for Flow {}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: Fingerprint = Digest::START.with(1).finish(false);
    const NEXT: Fingerprint = Digest::START.with(2).finish(false);
    const START: u64 = 10 * TRANSIT_NS;

    /// Lets a packet leave as it entered.
    fn leave(passage: &mut Passage, packet: Fingerprint, now: u64) -> Passed {
        passage.leave(packet, packet.token(), now)
    }

    #[test]
    fn a_proof_needs_a_packet_that_entered_just_before() {
        let mut passage = Passage::default();
        assert_eq!(leave(&mut passage, SENT, 5), Passed::Unknown, "nothing entered");
        passage.enter(SENT, 1_000);
        let late = 1_000 + TRANSIT_NS;
        assert_eq!(leave(&mut passage, SENT, late), Passed::Unknown, "too late to be the same packet");
        assert!(!passage.is_known());
        passage.enter(SENT, late);
        assert_eq!(leave(&mut passage, SENT, late + 1), Passed::Proven);
        assert!(passage.is_proven(late + PROOF_NS));
        assert!(!passage.is_proven(late + 1 + PROOF_NS), "the proof has expired");
        assert!(passage.is_known(), "a packet has passed once");
    }

    #[test]
    fn the_first_packet_of_many_is_the_sample_until_it_leaves_or_is_lost() {
        let mut passage = Passage::default();
        passage.enter(SENT, START);
        passage.enter(NEXT, START);
        assert_eq!(leave(&mut passage, NEXT, START), Passed::Unknown, "it is not the sample");
        assert_eq!(leave(&mut passage, SENT, START), Passed::Proven);
        passage.enter(NEXT, START + 1);
        assert_eq!(leave(&mut passage, NEXT, START + 1), Passed::Proven, "the sample was free");
        passage.enter(SENT, START + 2);
        passage.enter(NEXT, START + 2 + SAMPLE_NS);
        assert_eq!(leave(&mut passage, SENT, START + 2 + SAMPLE_NS), Passed::Unknown, "it was given up");
        assert_eq!(leave(&mut passage, NEXT, START + 2 + SAMPLE_NS), Passed::Proven);
    }

    #[test]
    fn a_changed_packet_ends_the_proof_at_once_and_for_as_long_as_a_proof_holds() {
        let mut passage = Passage::default();
        passage.enter(SENT, START);
        assert_eq!(leave(&mut passage, SENT, START), Passed::Proven);
        assert_eq!(passage.leave(NEXT, SENT.token(), START + 1), Passed::Changed);
        assert!(!passage.is_known() && passage.is_changed(START + 1));
        let again = START + PROOF_NS;
        passage.enter(SENT, again);
        assert_eq!(leave(&mut passage, SENT, again), Passed::Unknown, "a packet was changed not long ago");
        assert!(!passage.is_known() && !passage.is_changed(again + 1));
        passage.enter(SENT, again + 1);
        assert_eq!(leave(&mut passage, SENT, again + 1), Passed::Proven);
    }

    #[test]
    fn a_packet_that_never_entered_comes_from_a_proxy_if_others_entered() {
        let mut passage = Passage::default();
        assert_eq!(passage.leave(SENT, Token::NONE, START), Passed::Unknown, "the flow is not of a pod here");
        passage.enter(SENT, START);
        assert_eq!(passage.leave(SENT, Token::NONE, START), Passed::Changed);
        assert_eq!(passage.leave(SENT, Token::NONE, START + TRANSIT_NS), Passed::Unknown);
    }

    #[test]
    fn segments_of_an_aggregate_that_the_stack_cuts_say_nothing() {
        let mut passage = Passage::default();
        let [aggregate, changed] = [1, 2].map(|word| Digest::START.with(word).finish(true));
        passage.enter(aggregate, START);
        assert_eq!(passage.leave(SENT, aggregate.token(), START), Passed::Unknown);
        assert_eq!(passage.leave(changed, aggregate.token(), START), Passed::Changed);
    }

    #[test]
    fn packets_of_one_group_prove_nothing_for_another() {
        let mut passage = Passage::default();
        passage.expect(1, START);
        passage.enter(SENT, START);
        assert_eq!(
            leave(&mut passage, SENT, START + 1),
            Passed::Proven,
            "no packets of another group to wait for"
        );
        for again in 0..5 {
            let now = START + 2 + again;
            passage.expect(2 + (again & 1) as u32, now);
            passage.enter(SENT, now);
            assert_eq!(
                leave(&mut passage, SENT, now),
                Passed::Unknown,
                "it may be a packet of the other group"
            );
            assert!(!passage.is_known());
        }
        let now = START + 6 + TRANSIT_NS;
        passage.expect(2, now - 1);
        passage.enter(SENT, now - 1);
        assert_eq!(leave(&mut passage, SENT, now - 1), Passed::Unknown);
        passage.expect(2, now);
        passage.enter(SENT, now);
        assert_eq!(leave(&mut passage, SENT, now + 1), Passed::Proven, "packets of other groups are gone");
        assert!(passage.is_proven(now + 1));
        passage.expect(3, now + 1 + TRANSIT_NS);
        assert!(!passage.is_known());
        passage.enter(SENT, now + 1 + TRANSIT_NS);
        let left = leave(&mut passage, SENT, now + 1 + TRANSIT_NS);
        assert_eq!(left, Passed::Proven, "no packet of another group was on its way");
    }
}
