//! IP addresses as maps hold them: bytes in wire order. The array's length stands for the family.
//!
//! ```
//! use flannel_common::address::{Address, V4};
//!
//! let address: V4 = [10, 1, 15, 7];
//! assert_eq!(address.masked([255, 255, 255, 0]), [10, 1, 15, 0]);
//! assert_eq!(std::net::Ipv6Addr::from(address.mapped()).to_string(), "::ffff:10.1.15.7");
//! assert_eq!(V4::BITS, 32);
//! ```

use core::fmt::Debug;
use core::hash::Hash;

/// An IPv4 address.
pub type V4 = [u8; 4];
/// An IPv6 address.
pub type V6 = [u8; 16];

mod sealed {
    /// Limits [`super::Address`] to the types whose layouts are checked.
    pub trait Sealed {}
    impl Sealed for super::V4 {}
    impl Sealed for super::V6 {}
}

/// An address of one family.
pub trait Address:
    Copy + Debug + Default + Ord + Hash + Send + Sync + AsRef<[u8]> + sealed::Sealed + 'static
{
    /// Length in bits, which is also the longest prefix length.
    const BITS: u32;

    /// Returns the address as IPv6; IPv4 is mapped (RFC 4291 section 2.5.5.2).
    fn mapped(self) -> V6;

    /// Clears the bits that the mask does not have.
    #[must_use]
    fn masked(self, mask: Self) -> Self;
}

impl Address for V4 {
    const BITS: u32 = 32;

    #[inline(always)]
    fn mapped(self) -> V6 {
        let [a, b, c, d] = self;
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
    }

    #[inline(always)]
    fn masked(self, mask: Self) -> Self {
        (u32::from_ne_bytes(self) & u32::from_ne_bytes(mask)).to_ne_bytes()
    }
}

impl Address for V6 {
    const BITS: u32 = 128;

    #[inline(always)]
    fn mapped(self) -> V6 {
        self
    }

    #[inline(always)]
    fn masked(self, mask: Self) -> Self {
        (u128::from_ne_bytes(self) & u128::from_ne_bytes(mask)).to_ne_bytes()
    }
}
