//! Ethernet headers and MACs in the words that they are copied in. Pure; tested with the entries that have them (`maps/flow_ref.rs`).

/// A MAC, in the words that it is copied in: its first four bytes and its last two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac {
    /// As they are on the wire.
    pub first: u32,
    /// As they are on the wire.
    pub last: u16,
}

impl From<[u8; 6]> for Mac {
    #[inline(always)]
    fn from([a, b, c, d, e, f]: [u8; 6]) -> Self {
        Self { first: u32::from_ne_bytes([a, b, c, d]), last: u16::from_ne_bytes([e, f]) }
    }
}

impl From<Mac> for [u8; 6] {
    #[inline(always)]
    fn from(mac: Mac) -> Self {
        let ([a, b, c, d], [e, f]) = (mac.first.to_ne_bytes(), mac.last.to_ne_bytes());
        [a, b, c, d, e, f]
    }
}

/// An Ethernet header, in the words that it is copied in.
#[derive(Clone, Copy)]
pub struct Ethernet {
    /// Destination and source as they are on the wire.
    pub macs: [u32; 3],
    /// As [`EthHdr`](network_types::eth::EthHdr) has it.
    pub ether_type: u16,
}

impl Ethernet {
    /// Makes the header of a frame.
    #[inline(always)]
    pub const fn new(destination: Mac, source: Mac, ether_type: u16) -> Self {
        let (first, last) = (source.first.to_le(), source.last.to_le() as u32);
        let second = destination.last.to_le() as u32 | first << 16;
        let third = first >> 16 | last << 16;
        Self { macs: [destination.first, second.to_le(), third.to_le()], ether_type }
    }

    /// Returns the destination MAC.
    #[inline(always)]
    pub const fn destination(&self) -> Mac {
        let [first, second, _] = self.macs;
        Mac { first, last: (second.to_le() as u16).to_le() }
    }

    /// Returns the source MAC.
    #[inline(always)]
    pub const fn source(&self) -> Mac {
        let [_, second, third] = self.macs;
        let (second, third) = (second.to_le(), third.to_le());
        Mac { first: (second >> 16 | third << 16).to_le(), last: ((third >> 16) as u16).to_le() }
    }
}
