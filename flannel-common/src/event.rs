//! What programs tell the agent while they run: packets that a lease is missing for, and packets that the sender check
//! drops.

use crate::address::V6;
use crate::outcome::Outcome;

/// Most events that one CPU tells in [`WINDOW_NS`]: a flood of packets is no flood of events.
pub const BUDGET: u32 = 50;

/// What [`BUDGET`] is for, in nanoseconds.
pub const WINDOW_NS: u64 = 1_000_000_000;

/// Bytes of the ring `EVENTS`: a power of two, and at least a page.
pub const RING_LEN: usize = 1 << 16;

/// One record of `EVENTS`. IPv4 addresses are mapped into IPv6 ([`crate::address::Address::mapped`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What befell the packet: [`Outcome::Unleased`], or what the sender check says.
    pub outcome: Outcome,
    /// The inner address that it is about: the destination of a packet on its way out, the source of one from a peer.
    pub pod: V6,
    /// Outer source of a packet from a peer; all zeroes for one on its way out.
    pub node: V6,
}

const _: () = assert!(size_of::<Event>() == 36 && align_of::<Event>() == 4);

impl Event {
    /// The event in a record; `None` if the record is of another layout.
    #[must_use]
    pub fn read(record: &[u8]) -> Option<Self> {
        let (number, addresses) = record.split_first_chunk()?;
        let (pod, node) = addresses.split_first_chunk()?;
        let outcome = Outcome::from_number(u32::from_ne_bytes(*number))?;
        Some(Self { outcome, pod: *pod, node: node.try_into().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_are_written() {
        let event = Event { outcome: Outcome::Unleased, pod: [1; 16], node: [2; 16] };
        let mut record = [0; size_of::<Event>()];
        record[..4].copy_from_slice(&(Outcome::Unleased as u32).to_ne_bytes());
        record[4..20].fill(1);
        record[20..].fill(2);
        assert_eq!(Event::read(&record), Some(event));
        assert_eq!(Event::read(&record[1..]), None, "too short");
        assert_eq!(Event::read(&[9; size_of::<Event>()]), None, "no such outcome");
    }
}
