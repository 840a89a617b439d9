//! Events that programs send to the agent: a packet has no lease, or the sender check has dropped one.

use crate::address::V6;
use crate::outcome::Outcome;

/// Most events that one CPU sends in [`WINDOW_NS`], so that a flood of packets is no flood of events.
pub const BUDGET: u32 = 50;

/// Length in nanoseconds of the time that [`BUDGET`] is for.
pub const WINDOW_NS: u64 = 1_000_000_000;

/// Bytes of the ring `EVENTS`: a power of two, and at least a page.
pub const RING_LEN: usize = 1 << 16;

/// A record of `EVENTS`. IPv4 addresses are mapped to IPv6 ([`crate::address::Address::mapped`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened: [`Outcome::Unleased`], or an outcome of the sender check.
    pub outcome: Outcome,
    /// Inner destination of a packet to a peer, or inner source of a packet from a peer.
    pub pod: V6,
    /// Outer source of a packet from a peer; all zeroes for a packet to a peer.
    pub node: V6,
}

const _: () = assert!(size_of::<Event>() == 36 && align_of::<Event>() == 4);

impl Event {
    /// Reads a record. Returns `None` if it has another layout.
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
    fn records_are_read_as_programs_write_them() {
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
