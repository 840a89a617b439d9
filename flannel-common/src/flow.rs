//! The flow cache: flows between pods of this node and pods of other nodes.
//!
//! A direction of a flow may skip the host stack once one of its packets has passed the stack, and programs know what the
//! stack made of it ([`crate::fingerprint`]): no rule dropped it, and nothing but addresses and ports was rewritten. This
//! proof holds for [`PROOF_NS`]. Then packets go through the stack again, until one leaves it.
//!
//! A flow that the stack translates, as one to a service, has two names: that of the pod, which knows the service's address,
//! and that of the network, which knows the address of the pod behind it. It has an entry under each of them, and both know
//! the same. Other flows have one name and one entry.
//!
//! ```
//! use flannel_common::flow::{PROOF_NS, Passage};
//!
//! let mut passage = Passage::default();
//! assert!(passage.prove(0, 1, 1_000), "a packet has left the stack as it entered");
//! assert!(passage.is_proven(1_000 + PROOF_NS - 1, PROOF_NS, 1));
//! assert!(!passage.is_proven(1_000 + PROOF_NS, PROOF_NS, 1), "the proof has expired");
//! assert!(!passage.is_proven(1_001, PROOF_NS, 2), "routes have changed");
//!
//! passage.revoke(4_000);
//! assert!(!passage.is_known(), "a rule rewrites packets");
//! assert!(!passage.prove(0, 2, 5_000), "it did so not long ago");
//! ```

use crate::address::{Address, V4, V6};
use crate::fingerprint::Digest;

/// Longest time that a proof holds, in nanoseconds. A firewall change takes effect within this time, and the connection tracker
/// sees a packet of a busy flow this often.
pub const PROOF_NS: u64 = 10_000_000_000;

/// Longest time that a proof of a translated flow holds, in nanoseconds: services lose the pods behind them more often than
/// rules change. See [`Passage::lifetime_after`].
pub const TRANSLATED_NS: u64 = 1_000_000_000;

/// Returns until when the new entries of a map are spent if one more is made now, or `None` if none may be made. `spent`: the same
/// before; 0 at first. `each`: [`each_ns`] of the map. All in nanoseconds.
///
/// In the time that a proof holds, a map gets as many new entries as it holds. More would replace entries that are still proven: with many
/// more flows than entries, hardly one would be there for its flow's next packet. Flows take turns instead.
///
/// ```
/// use flannel_common::flow::{PROOF_NS, spend};
///
/// let (now, each) = (1_000, PROOF_NS / 2);
/// let spent = spend(0, now, each).and_then(|spent| spend(spent, now, each)).unwrap();
/// assert_eq!(spend(spent, now, each), None, "a map of two entries has got two");
/// assert!(spend(spent, now + each, each).is_some(), "half of the time later it gets another");
/// ```
#[inline(always)]
#[must_use]
pub const fn spend(spent: u64, now: u64, each: u64) -> Option<u64> {
    let after = if spent > now { spent + each } else { now + each };
    if after - now > PROOF_NS { None } else { Some(after) }
}

/// Returns [`PROOF_NS`] over the capacity of a map, for [`spend`], in nanoseconds.
#[must_use]
pub const fn each_ns(capacity: u32) -> u64 {
    PROOF_NS / if capacity == 0 { 1 } else { capacity as u64 }
}

/// How long the MTU of a pod's port is not asked for again, in nanoseconds. While no agent is running, a port that is gone may get packets
/// for as long; an agent ends proofs when a port changes.
pub const PORT_NS: u64 = 100_000_000;

/// Longest time in the stack, in nanoseconds. A packet that leaves later proves nothing.
pub const TRANSIT_NS: u64 = 1_000_000_000;

/// A flow, seen from its pod on this node: key of `FLOWS` and `FLOWS6`. All in wire order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// Adds the flow to a digest.
    #[inline(always)]
    #[must_use]
    pub fn digest(&self, packet: Digest) -> Digest {
        let [[a, b], [c, d]] = [self.pod_port, self.remote_port];
        packet
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
pub struct Flow<A: Address> {
    /// From the pod through the stack to the vxlan device or the uplink.
    pub egress: Passage,
    /// From the vxlan device or the uplink through the stack to the pod.
    pub ingress: Passage,
    /// Where the pod is.
    pub port: Port,
    /// The flow's other name; the same name if it has only one.
    pub other: FlowKey<A>,
    /// How packets from the pod reach the peer.
    pub way: Way<A>,
    /// Whose name this entry's key is.
    pub names: Names,
    /// By how much the sum below a checksum grows when addresses of the other name replace those of the key
    /// ([`crate::checksum::change_of`]).
    pub addresses: u32,
    /// The same, with ports.
    pub ports: u32,
    /// MTU of the pod's port in bytes.
    pub port_mtu: u32,
    /// When the kernel was last asked for [`Self::port_mtu`], and the port was there; 0: never. Nanoseconds of [`crate::abi::CLOCK`].
    pub port_asked: u64,
}

/// [`Way::flags`]: through the tunnel.
pub const TUNNEL: u16 = 0;

/// How packets of a flow reach the peer past the host stack, as the lease and the kernel said when the flow was last proven. All
/// zeroes: not known.
///
/// It holds as long as the proof: when a lease, a route or a neighbour changes, the generation ends it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way<A: Address> {
    /// The peer's public address: outer destination.
    pub public_ip: A,
    /// The next hop of outer packets: a router, or the peer itself; zeroes with `next_hop_mac`, and without a tunnel.
    pub next_hop: A,
    /// MAC of the next hop; zeroes: the kernel is asked for each packet. Without a tunnel it is that of the packet that proved the flow.
    pub next_hop_mac: [u8; 6],
    /// The uplink's MAC, with which packets leave.
    pub uplink_mac: [u8; 6],
    /// MAC of the peer's vxlan device: inner destination MAC.
    pub vtep_mac: [u8; 6],
    /// [`crate::lease::DIRECT`]: without a tunnel, as the stack has sent the packet that proved the flow; [`TUNNEL`]: through it.
    pub flags: u16,
    /// MTU of the path to the peer in bytes, which outer packets must fit; 0: nothing is known.
    pub mtu: u32,
}

impl<A: Address> Way<A> {
    /// Returns whether packets can be sent this way.
    #[inline(always)]
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.mtu != 0
    }
}

/// Whose name of a flow a key is: bits.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Names(pub u32);

/// One direction of a flow through the host stack. Times are nanoseconds of [`crate::abi::CLOCK`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passage {
    /// When a packet last left the stack, changed or not; 0: never.
    pub left: u64,
    /// With group policy: the packets' mark as VXLAN carries it, on leaving the stack (egress) or entering it (ingress).
    /// Without: 0.
    pub mark: u32,
    /// [`crate::node::NodeConfig::generation`] when the packet that left last had entered, which proves the flow. 0: the stack
    /// has changed or made that packet.
    pub generation: u32,
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

impl Names {
    /// The pod's name: its packets enter the stack with it.
    pub const POD: Self = Self(1);
    /// The network's name: packets to the pod enter the stack with it.
    pub const NETWORK: Self = Self(2);
    /// Both: the stack does not translate the flow.
    pub const BOTH: Self = Self(3);

    /// Returns the name with which packets of this direction enter the stack.
    #[inline(always)]
    #[must_use]
    pub const fn of_entry(direction: Direction) -> Self {
        match direction {
            Direction::Egress => Self::POD,
            Direction::Ingress => Self::NETWORK,
        }
    }

    /// Returns whether this is one of these names.
    #[inline(always)]
    #[must_use]
    pub const fn include(self, name: Self) -> bool {
        self.0 & name.0 != 0
    }
}

impl Passage {
    /// Notes that a packet with this mark, which entered in this generation, has left the stack, and nothing but its addresses
    /// and ports was changed. Returns whether this proves the flow: it does not while other packets are changed.
    #[inline(always)]
    pub const fn prove(&mut self, mark: u32, generation: u32, now: u64) -> bool {
        if self.is_changed(now) {
            return false;
        }
        *self = Self { left: now, mark, generation };
        true
    }

    /// Notes that the stack has changed or made a packet. The flow stays in the stack until it has not done so for
    /// [`PROOF_NS`].
    #[inline(always)]
    pub const fn revoke(&mut self, now: u64) {
        (self.left, self.generation) = (now, 0);
    }

    /// Returns whether a packet has passed, and none was changed since.
    #[inline(always)]
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.left != 0 && self.generation != 0
    }

    /// Returns how long this proof, of the packets to the pod of a translated flow, holds in nanoseconds. `sent`: the packets
    /// from the pod. `lifetime`: how long the proof of those holds.
    ///
    /// The connection tracker may forget the flow, if the service has lost the pod behind it. It then does not translate the
    /// answers to packets that still took the shortcut, so that answers must not go through the stack sooner than the packets
    /// from the pod: they follow them, or come after twice the time.
    #[inline(always)]
    #[must_use]
    pub const fn lifetime_after(&self, sent: &Self, lifetime: u64) -> u64 {
        if sent.left > self.left { lifetime } else { 2 * lifetime }
    }

    /// Returns whether the proof still holds, if it does so for this time in nanoseconds and in this generation.
    #[inline(always)]
    #[must_use]
    pub const fn is_proven(&self, now: u64, lifetime: u64, generation: u32) -> bool {
        self.is_known() && self.generation == generation && now.wrapping_sub(self.left) < lifetime
    }

    /// Returns whether the stack changed a packet not long ago.
    #[inline(always)]
    #[must_use]
    pub const fn is_changed(&self, now: u64) -> bool {
        self.left != 0 && self.generation == 0 && now.wrapping_sub(self.left) < PROOF_NS
    }
}

const _: () = assert!(size_of::<FlowKey<V4>>() == 16 && align_of::<FlowKey<V4>>() == 1);
const _: () = assert!(size_of::<FlowKey<V6>>() == 40 && align_of::<FlowKey<V6>>() == 1);
const _: () = assert!(size_of::<Port>() == 16 && align_of::<Port>() == 4);
const _: () = assert!(size_of::<Way<V4>>() == 32 && align_of::<Way<V4>>() == 4);
const _: () = assert!(size_of::<Way<V6>>() == 56 && align_of::<Way<V6>>() == 4);
const _: () = assert!(size_of::<Flow<V4>>() == 120 && align_of::<Flow<V4>>() == 8);
const _: () = assert!(size_of::<Flow<V6>>() == 168 && align_of::<Flow<V6>>() == 8);

#[cfg(feature = "user")]
// SAFETY: repr(C), bytes only for either of the types that can be `A` (16 or 40, asserted above), every bit pattern is
// valid.
unsafe impl<A: Address> aya::Pod for FlowKey<A> {}
#[cfg(feature = "user")]
// SAFETY: repr(C), no padding (asserted above: 2 * 16 + 16 + 16 or 40 + 32 or 56 + 4 * 4 + 8), every bit pattern is valid.
unsafe impl<A: Address> aya::Pod for Flow<A> {}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 10 * PROOF_NS;

    #[test]
    fn a_proof_expires() {
        let mut passage = Passage::default();
        assert!(!passage.is_known() && !passage.is_proven(START, PROOF_NS, 0));
        assert!(passage.prove(7, 3, START));
        assert_eq!(passage, Passage { left: START, mark: 7, generation: 3 });
        assert!(passage.is_proven(START + PROOF_NS - 1, PROOF_NS, 3));
        assert!(!passage.is_proven(START + PROOF_NS, PROOF_NS, 3));
        assert!(passage.is_known(), "a packet has passed once");
    }

    #[test]
    fn a_map_gets_as_many_new_entries_as_it_holds_in_the_time_of_a_proof() {
        const CAPACITY: u64 = 1000;
        const EACH: u64 = PROOF_NS / CAPACITY;
        let mut spent = 0;
        let mut made = |now, wanted: u64| {
            let granted =
                (0..wanted).filter(|_| spend(spent, now, EACH).inspect(|after| spent = *after).is_some());
            granted.count() as u64
        };
        assert_eq!(made(START, 2 * CAPACITY), CAPACITY, "at once, while it is empty");
        assert_eq!(made(START + PROOF_NS / 10, CAPACITY), CAPACITY / 10);
        assert_eq!(made(START + PROOF_NS, 2 * CAPACITY), 9 * CAPACITY / 10);
        assert_eq!(made(START + PROOF_NS + EACH, CAPACITY), 1, "one by one");
        assert_eq!(made(START + 100 * PROOF_NS, 2 * CAPACITY), CAPACITY, "after a pause");
    }

    #[test]
    fn a_proof_of_another_generation_does_not_hold() {
        let mut passage = Passage::default();
        assert!(passage.prove(0, 3, START));
        for generation in [0, 2, 4] {
            assert!(!passage.is_proven(START, PROOF_NS, generation), "generation {generation}");
        }
        assert!(passage.is_known(), "a packet has passed once");
        assert!(passage.prove(0, 4, START) && passage.is_proven(START, PROOF_NS, 4));
    }

    #[test]
    fn answers_of_a_translated_flow_are_shown_to_the_stack_after_its_questions() {
        let at = |left| Passage { left, mark: 0, generation: 1 };
        let answers = at(START + 1);
        let proven =
            |sent: Passage, now| answers.is_proven(now, answers.lifetime_after(&sent, TRANSLATED_NS), 1);
        let (once, twice) = (START + 1 + TRANSLATED_NS, START + 1 + 2 * TRANSLATED_NS);
        assert!(proven(at(START), twice - 1), "questions still skip the stack until just before");
        assert!(!proven(at(START), twice));
        assert!(proven(at(once), once - 1));
        assert!(!proven(at(once), once), "a question has passed the stack just now");
    }

    #[test]
    fn a_changed_packet_ends_the_proof_at_once_and_for_as_long_as_a_proof_holds() {
        let mut passage = Passage::default();
        assert!(passage.prove(0, 1, START));
        passage.revoke(START + 1);
        assert!(!passage.is_known() && passage.is_changed(START + 1));
        assert!(!passage.prove(0, 1, START + PROOF_NS), "a packet was changed not long ago");
        assert!(!passage.is_known() && !passage.is_changed(START + 1 + PROOF_NS));
        assert!(passage.prove(0, 1, START + 1 + PROOF_NS));
    }

    #[test]
    fn packets_to_the_pod_enter_with_the_name_of_the_network() {
        let entered = |names: Names| {
            [Direction::Egress, Direction::Ingress].map(|direction| names.include(Names::of_entry(direction)))
        };
        assert_eq!(entered(Names::POD), [true, false]);
        assert_eq!(entered(Names::NETWORK), [false, true]);
        assert_eq!(entered(Names::BOTH), [true, true]);
        assert_eq!(entered(Names::default()), [false, false]);
    }
}
