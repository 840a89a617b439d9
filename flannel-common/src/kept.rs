//! Flows of which rules of the host look at each packet. They stay in the host stack.
//!
//! A rule is told by one end of its flows, the better known one: a port, addresses, or both. So a flow is kept if one of its ends is in
//! `KEPT`, with its port or with port 0.

use crate::address::V6;

/// An end of flows: key of `KEPT`, of which the first bits count.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeptEnd {
    /// Version of IP: 4 or 6.
    pub family: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// Its port, in wire order; 0: any.
    pub port: [u8; 2],
    /// Its address; IPv4 is mapped ([`crate::address::Address::mapped`]).
    pub address: V6,
}

impl KeptEnd {
    /// The number of bits before the address.
    pub const BITS_BEFORE_ADDRESS: u32 = 32;
    /// The number of bits.
    pub const BITS: u32 = Self::BITS_BEFORE_ADDRESS + 128;
}

const _: () = assert!(size_of::<KeptEnd>() == 20 && align_of::<KeptEnd>() == 1);

#[cfg(feature = "user")]
// SAFETY: repr(C), bytes only, every bit pattern is valid.
unsafe impl aya::Pod for KeptEnd {}
