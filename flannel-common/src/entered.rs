//! Packets in the host stack: what a program notes of a packet that enters, for the one that sees it leave.
//!
//! ```
//! use flannel_common::entered::Entered;
//! use flannel_common::fingerprint::Digest;
//! use flannel_common::flow::FlowKey;
//!
//! let (sent, marked) = (Digest::START.with(0x4500_0054), Digest::START.with(0x45b8_0054));
//! let (key, token) = (FlowKey::<[u8; 4]>::default(), sent.token(false));
//! let entered = Entered { key, at: 1_000, token: token.0 as u16, ..Entered::default() }.sealed(sent);
//! assert!(entered.is_of(sent), "this is the packet, whatever its addresses are now");
//! assert!(!entered.is_of(marked), "a rule has changed DSCP");
//! ```

use crate::address::{Address, V4, V6};
use crate::fingerprint::{Digest, Token};
use crate::flow::{Direction, FlowKey, Port, TRANSIT_NS};

/// A packet that has entered the host stack: value of `ENTERED` and `ENTERED6`, at [`Token::slot`].
///
/// Only the last packet of a slot is known, and another CPU may write it while one reads. So everything but the time goes
/// into the fingerprint, and a record that does not fit its fingerprint is not believed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entered<A: Address> {
    /// Fingerprint of packet and record; 0: the packet has left.
    pub fingerprint: u64,
    /// When it entered, in nanoseconds of [`crate::abi::CLOCK`].
    pub at: u64,
    /// The flow's name with which it entered.
    pub key: FlowKey<A>,
    /// Where the pod is; zeroes if the packet goes to the pod.
    pub port: Port,
    /// Its mark, if that makes its group.
    pub mark: u32,
    /// The kernel's hash of its flow (`skb->hash`). Packets of two flows can have the same digest, such as short datagrams.
    pub hash: u32,
    /// Its [`Token`].
    pub token: u16,
    /// 1: it comes from the pod; 0: it goes there.
    pub from_pod: u16,
    /// [`crate::node::NodeConfig::generation`] when it entered.
    pub generation: u32,
}

impl<A: Address> Entered<A> {
    /// Adds the fingerprint. `packet`: digest of what the stack must not change.
    #[inline(always)]
    #[must_use]
    pub fn sealed(self, packet: Digest) -> Self {
        Self { fingerprint: self.fingerprint_with(packet), ..self }
    }

    /// Returns whether this is the record of a packet that leaves with this digest.
    #[inline(always)]
    #[must_use]
    pub fn is_of(&self, packet: Digest) -> bool {
        self.fingerprint == self.fingerprint_with(packet)
    }

    /// Returns whether this is the record of a packet with this token and hash, which may have been changed otherwise.
    #[inline(always)]
    #[must_use]
    pub const fn may_be(&self, direction: Direction, token: Token, hash: u32, now: u64) -> bool {
        self.fingerprint != 0
            && self.token as u32 == token.0
            && self.hash == hash
            && self.from_pod == from_pod(direction)
            && now.wrapping_sub(self.at) < TRANSIT_NS
    }

    #[inline(always)]
    fn fingerprint_with(&self, packet: Digest) -> u64 {
        let Port { ifindex, pod_mac: [a, b, c, d, e, f], gateway_mac: [g, h, i, j, k, l] } = self.port;
        self.key
            .digest(packet)
            .with(ifindex)
            .with_bytes(&[a, b, c, d, e, f, g, h, i, j, k, l])
            .with(self.mark)
            .with(self.hash)
            .with(u32::from(self.token) << 16 | u32::from(self.from_pod))
            .with(self.generation)
            .finish()
    }
}

/// Returns [`Entered::from_pod`] of a packet.
#[inline(always)]
#[must_use]
pub const fn from_pod(direction: Direction) -> u16 {
    match direction {
        Direction::Egress => 1,
        Direction::Ingress => 0,
    }
}

const _: () = assert!(size_of::<Entered<V4>>() == 64 && align_of::<Entered<V4>>() == 8);
const _: () = assert!(size_of::<Entered<V6>>() == 88 && align_of::<Entered<V6>>() == 8);

#[cfg(feature = "user")]
// SAFETY: repr(C), no padding (asserted above: 2 * 8 + 16 or 40 + 16 + 2 * 4 + 2 * 2 + 4), every bit pattern is valid.
unsafe impl<A: Address> aya::Pod for Entered<A> {}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: Digest = Digest::START.with(1);
    const START: u64 = 10 * TRANSIT_NS;
    const HASH: u32 = 0x1234_5678;

    fn key() -> FlowKey<V4> {
        FlowKey {
            pod: [10, 1, 2, 3],
            remote: [10, 96, 0, 1],
            pod_port: [1, 2],
            protocol: [17, 0, 0, 0],
            ..FlowKey::default()
        }
    }

    fn entered() -> Entered<V4> {
        let port = Port { ifindex: 7, pod_mac: [1, 2, 3, 4, 5, 6], gateway_mac: [6, 5, 4, 3, 2, 1] };
        let (token, from_pod) = (SENT.token(false).0 as u16, from_pod(Direction::Egress));
        Entered { at: START, key: key(), port, mark: 3, hash: HASH, token, from_pod, ..Entered::default() }
            .sealed(SENT)
    }

    #[test]
    fn a_packet_is_known_again_unless_it_or_its_record_was_changed() {
        let entered = entered();
        assert!(entered.is_of(SENT));
        assert!(!entered.is_of(SENT.with(0)) && !Entered::<V4>::default().is_of(SENT));
        let changes: [fn(&mut Entered<V4>); 9] = [
            |entered| entered.key.pod[3] ^= 1,
            |entered| entered.key.remote_port[1] ^= 1,
            |entered| entered.port.ifindex ^= 1,
            |entered| entered.port.pod_mac[5] ^= 1,
            |entered| entered.port.gateway_mac[0] ^= 1,
            |entered| entered.mark ^= 1,
            |entered| entered.hash ^= 1,
            |entered| entered.token ^= 2,
            |entered| entered.from_pod ^= 1,
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut torn = entered;
            change(&mut torn);
            assert!(!torn.is_of(SENT), "change {number}");
        }
    }

    #[test]
    fn a_record_may_be_of_a_packet_with_its_token_hash_and_direction_that_entered_just_before() {
        let (entered, token, other) = (entered(), SENT.token(false), SENT.with(2).token(false));
        let may_be = |direction, token, hash, now| entered.may_be(direction, token, hash, now);
        assert!(may_be(Direction::Egress, token, HASH, START + TRANSIT_NS - 1));
        assert!(!may_be(Direction::Egress, token, HASH, START + TRANSIT_NS));
        assert!(!may_be(Direction::Ingress, token, HASH, START));
        assert!(!may_be(Direction::Egress, other, HASH, START));
        assert!(!may_be(Direction::Egress, token, HASH + 1, START));
        let gone = Entered { fingerprint: 0, ..entered };
        assert!(!gone.may_be(Direction::Egress, token, HASH, START), "the packet has left");
    }
}
