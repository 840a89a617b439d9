//! Mutations of good packets.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::frame::{ETHERNET, UDP_AND_VXLAN, correct_checksum};

/// Longest frame in bytes that the kernel accepts for a test run (net/bpf/test_run.c).
const LONGEST: usize = 3500;
/// Offsets of the IPv4 header, and of the inner one in VXLAN without outer options.
const IPV4_AT: [usize; 2] = [ETHERNET, ETHERNET + 20 + UDP_AND_VXLAN + ETHERNET];

/// One change of a frame. Offsets wrap around at its end.
#[derive(Clone, Debug)]
enum Mutation {
    Flip {
        at: usize,
        bit: u8,
    },
    Set {
        at: usize,
        byte: u8,
    },
    /// Adds to a number of two bytes.
    Add {
        at: usize,
        by: i16,
    },
    /// Inserts options, a tag or another header.
    Insert {
        at: usize,
        bytes: Vec<u8>,
    },
    Cut {
        at: usize,
    },
    Append {
        bytes: Vec<u8>,
    },
    /// Replaces bytes from there on.
    Scramble {
        at: usize,
        bytes: Vec<u8>,
    },
}

/// Changes, and which IPv4 header checksums are corrected afterwards, so that packets pass more than the first check.
#[derive(Clone, Debug)]
pub(super) struct Mutations {
    changes: Vec<Mutation>,
    corrected: [bool; 2],
}

/// Makes up to four changes, mostly of headers.
pub(super) fn mutations() -> impl Strategy<Value = Mutations> {
    (vec(mutation(), 0..=4), any::<[bool; 2]>())
        .prop_map(|(changes, corrected)| Mutations { changes, corrected })
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let anywhere = || prop_oneof![9 => 0..150usize, 1 => 0..LONGEST];
    // Offsets of lengths, header lengths and fragment offsets in outer and inner IPv4, IPv6, UDP and TCP headers.
    let lengths = select(vec![14usize, 16, 18, 20, 22, 38, 46, 58, 64, 66, 70, 88, 96, 128]);
    let few = prop_oneof![4 => -3..=3i16, 1 => any::<i16>()];
    prop_oneof![
        4 => (anywhere(), 0..8u8).prop_map(|(at, bit)| Mutation::Flip { at, bit }),
        3 => (anywhere(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set { at, byte }),
        3 => (lengths, few).prop_map(|(at, by)| Mutation::Add { at, by }),
        2 => (anywhere(), vec(any::<u8>(), 1..=8)).prop_map(|(at, bytes)| Mutation::Insert { at, bytes }),
        2 => anywhere().prop_map(|at| Mutation::Cut { at }),
        1 => vec(any::<u8>(), 1..200).prop_map(|bytes| Mutation::Append { bytes }),
        1 => (anywhere(), vec(any::<u8>(), 1..60)).prop_map(|(at, bytes)| Mutation::Scramble { at, bytes }),
    ]
}

impl Mutations {
    /// Applies all changes.
    pub(super) fn of(&self, good: &[u8]) -> Vec<u8> {
        let mut frame = good.to_vec();
        for change in &self.changes {
            change.apply(&mut frame);
        }
        frame.truncate(LONGEST);
        // The kernel refuses shorter frames: it needs the whole IP header, or one byte of other packets.
        frame.resize(frame.len().max(14 + 1), 0);
        let shortest = match frame[12..14] {
            [0x08, 0] => 14 + 20,
            [0x86, 0xdd] => 14 + 40,
            _ => 14 + 1,
        };
        frame.resize(frame.len().max(shortest), 0);
        for (at, corrected) in IPV4_AT.into_iter().zip(self.corrected) {
            if corrected {
                correct_checksum(&mut frame, at);
            }
        }
        frame
    }
}

impl Mutation {
    fn apply(&self, frame: &mut Vec<u8>) {
        let length = frame.len();
        let place = |at: usize| at % length;
        match self {
            Self::Append { bytes } => frame.extend(bytes),
            _ if frame.is_empty() => {}
            Self::Flip { at, bit } => frame[place(*at)] ^= 1 << bit,
            Self::Set { at, byte } => frame[place(*at)] = *byte,
            Self::Add { at, by } => add(frame, *at, *by),
            Self::Insert { at, bytes } => {
                let at = place(*at);
                drop(frame.splice(at..at, bytes.iter().copied()));
            }
            Self::Cut { at } => frame.truncate(place(*at)),
            Self::Scramble { at, bytes } => {
                let at = place(*at);
                frame[at..].iter_mut().zip(bytes).for_each(|(old, new)| *old = *new);
            }
        }
    }
}

fn add(frame: &mut [u8], at: usize, by: i16) {
    if let Some(number) = frame.get_mut(at..at + 2) {
        let sum = u16::from_be_bytes([number[0], number[1]]).wrapping_add_signed(by);
        number.copy_from_slice(&sum.to_be_bytes());
    }
}
