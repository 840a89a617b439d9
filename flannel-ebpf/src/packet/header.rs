//! Headers on the stack.

use core::ops::Deref;
use core::{ptr, slice};

use flannel_common::address::Address;
use flannel_common::handover::Handover;
use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};
use network_types::udp::UdpHdr;
use network_types::vxlan::VxlanHdr;

/// A header of a packet.
///
/// # Safety
/// The type is `repr(C)` without padding and valid for every bit pattern.
pub unsafe trait Header: Copy {
    /// Returns the header as it is on the wire.
    #[inline(always)]
    fn bytes(&self) -> &[u8] {
        // SAFETY: a header has no padding, so that each of its bytes is initialised.
        unsafe { slice::from_raw_parts(ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}
// SAFETY: bytes and one u16.
unsafe impl Header for EthHdr {}
// SAFETY: bytes.
unsafe impl Header for Ipv4Hdr {}
// SAFETY: bytes.
unsafe impl Header for Ipv6Hdr {}
// SAFETY: bytes.
unsafe impl Header for UdpHdr {}
// SAFETY: bytes.
unsafe impl Header for VxlanHdr {}
// SAFETY: a byte.
unsafe impl Header for u8 {}
// SAFETY: a number.
unsafe impl Header for u16 {}
// SAFETY: a number.
unsafe impl Header for u32 {}
// SAFETY: bytes.
unsafe impl<const LEN: usize> Header for [u8; LEN] {}
// SAFETY: numbers.
unsafe impl<const LEN: usize> Header for [u32; LEN] {}
// SAFETY: bytes, the address as well.
unsafe impl<A: Address> Header for Handover<A> {}

/// A header on the stack, where it can be read and written in words of four bytes. Otherwise LLVM goes byte by byte: most headers
/// consist of bytes.
#[derive(Clone, Copy)]
#[repr(C, align(4))]
pub struct Aligned<T>(pub T);

impl<T: Header> Aligned<T> {
    /// Returns the four bytes at this offset, a multiple of 4, the first of them in the lowest bits.
    #[inline(always)]
    pub fn word(&self, at: usize) -> u32 {
        assert!(at.is_multiple_of(4) && at + 4 <= size_of::<T>(), "no word of the header");
        // SAFETY: within the header (checked above; the compiler knows the offset), and aligned as this type is.
        unsafe { ptr::from_ref(self).cast::<u32>().add(at / 4).read() }.to_le()
    }
}

impl<T> Deref for Aligned<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.0
    }
}
