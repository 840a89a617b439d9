//! Packets in the host stack: what the programs note of one in `ENTERED` where it enters, as the frame says.

use std::collections::BTreeMap;

use aya::maps::Array;
use etherparse::IpNumber;
use flannel_common::abi;
use flannel_common::entered::{self, Entered};
use flannel_common::fingerprint::{Digest, Token};
use flannel_common::flow::{Direction, FlowKey, Port};
use flannel_common::outcome::Hook;

use super::super::fuzz::frame::{flow, is_from_pod};
use super::super::token::FLOW_HASH;
use super::super::{GENERATION, Programs, of_family};
use super::{Family, port};

/// Contents of `ENTERED`, without empty slots.
pub(in crate::program) type InStack<A> = BTreeMap<u32, Entered<A>>;

/// A packet of a flow, where it enters or leaves the host stack.
pub(in crate::program) struct Packet<A: Family> {
    /// The flow's name that it has here.
    pub(in crate::program) name: FlowKey<A>,
    /// Its token, if the stack changes nothing but its addresses.
    pub(in crate::program) token: Token,
    direction: Direction,
    digest: Digest,
}

impl<A: Family> Packet<A> {
    /// Reads the packet of a frame, if it is of a flow.
    pub(in crate::program) fn read(frame: &[u8], gso_size: u32, hook: Hook) -> Option<Self> {
        let name = flow::<A>(frame, 14, hook)?;
        let direction = if is_from_pod(hook) { Direction::Egress } else { Direction::Ingress };
        let digest = digest(&frame[14..], u8::from(!is_after_stack(hook)))?;
        Some(Self { name, token: digest.token(gso_size != 0), direction, digest })
    }

    /// Returns what is noted of it where it enters, before the fingerprint.
    pub(in crate::program) fn entered(&self, mark: u32, at: u64) -> Entered<A> {
        let port = match self.direction {
            Direction::Egress => port(),
            Direction::Ingress => Port::default(),
        };
        let from_pod = entered::from_pod(self.direction);
        let generation = GENERATION;
        Entered {
            at,
            key: self.name,
            port,
            mark,
            hash: FLOW_HASH,
            from_pod,
            generation,
            ..Entered::default()
        }
    }

    /// Adds the fingerprint, for a packet that carries this token.
    pub(in crate::program) fn fingerprinted(&self, entered: Entered<A>, token: Token) -> Entered<A> {
        Entered { token: token.0 as u16, ..entered }.sealed(self.digest)
    }
}

/// Computes the digest of an IP packet after this number of routers.
fn digest(ip: &[u8], hops: u8) -> Option<Digest> {
    let (fixed, transport, protocol) = if ip[0] >> 4 == 4 {
        ([&ip[..8], &[ip[8].wrapping_sub(hops), ip[9], 0, 0]].concat(), &ip[20..], ip[9])
    } else {
        ([&ip[..7], &[ip[7].wrapping_sub(hops), 0, 0, 0, 0]].concat(), &ip[40..], ip[6])
    };
    let digest = Digest::START.with_bytes(&fixed);
    if IpNumber(protocol) != IpNumber::TCP {
        return Some(digest);
    }
    // Sequence and acknowledgement numbers, flags, window.
    Some(digest.with_bytes(transport.get(4..16)?))
}

/// Returns whether packets at this hook leave the host stack.
pub(in crate::program) const fn is_after_stack(hook: Hook) -> bool {
    matches!(hook, Hook::OverlayEgress | Hook::PodIngress | Hook::UnderlayEgress)
}

impl Programs {
    /// Returns the records of all packets.
    pub(super) fn in_stack<A: Family>(&self) -> InStack<A> {
        let map = self.0.map(of_family::<A>(abi::ENTERED, abi::ENTERED6)).unwrap();
        let records = Array::<_, Entered<A>>::try_from(map).unwrap();
        let records = records.iter().map(Result::unwrap).enumerate();
        records
            .map(|(slot, record)| (slot as u32, record))
            .filter(|(_, record)| *record != Entered::default())
            .collect()
    }

    /// Writes the record of one slot.
    pub(in crate::program) fn set_entered<A: Family>(&mut self, slot: u32, record: Entered<A>) {
        let map = self.0.map_mut(of_family::<A>(abi::ENTERED, abi::ENTERED6)).unwrap();
        Array::<_, Entered<A>>::try_from(map).unwrap().set(slot, record, 0).unwrap();
    }
}
