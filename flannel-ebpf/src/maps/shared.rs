//! Loads and stores of memory that other CPUs or the agent may write at the same time.
//!
//! No Rust reference to such memory exists. Every access is a volatile one of an aligned word, which is one instruction,
//! as with the kernel's `READ_ONCE` and `WRITE_ONCE`. (The BPF target has no 32-bit atomics.) Values larger than a word are
//! copied word by word, and may mix what different writers wrote.

use core::mem::MaybeUninit;

use crate::packet::Mac;

/// A number that the machine loads and stores at once.
pub(super) trait Word: Copy {}
impl Word for u8 {}
impl Word for u16 {}
impl Word for u32 {}
impl Word for u64 {}

/// Copies a value out, word by word.
///
/// # Safety
/// `from` points into a map's value and is aligned to `W`. `T` has no padding and allows every bit pattern.
#[inline(always)]
pub(super) unsafe fn load<W: Word, T: Copy>(from: *const T) -> T {
    const { assert!(size_of::<T>().is_multiple_of(size_of::<W>())) };
    let mut copy = MaybeUninit::<T>::uninit();
    for index in 0..size_of::<T>() / size_of::<W>() {
        // SAFETY: within `from`, which is aligned, and within `copy`, which may not be.
        unsafe {
            let word = from.cast::<W>().add(index).read_volatile();
            copy.as_mut_ptr().cast::<W>().add(index).write_unaligned(word);
        }
    }
    // SAFETY: every word is written above, and every bit pattern is valid.
    unsafe { copy.assume_init() }
}

/// Copies a MAC out.
///
/// # Safety
/// `from` points into a map's value, at any address. (Programs may load from it so, as from packets: `packet/memory.rs`.)
#[inline(always)]
pub(super) unsafe fn load_mac(from: *const [u8; 6]) -> Mac {
    // SAFETY: within `from`.
    unsafe { Mac { first: load_word(from.cast()), last: load_word(from.cast::<[u8; 4]>().add(1).cast()) } }
}

/// Copies the MACs of a frame out.
///
/// # Safety
/// As for [`load_mac`].
#[inline(always)]
pub(super) unsafe fn load_macs(from: *const [[u8; 6]; 2]) -> [u32; 3] {
    // SAFETY: within `from`.
    [0, 1, 2].map(|index| unsafe { load_word(from.cast::<u32>().add(index)) })
}

/// Loads a word from any address.
///
/// # Safety
/// As for [`load_mac`].
#[inline(always)]
unsafe fn load_word<W: Word>(from: *const W) -> W {
    // SAFETY: see the caller. For BPF the address is taken for an aligned one, which it may not be: one load comes of it.
    unsafe { if cfg!(target_arch = "bpf") { from.read_volatile() } else { from.read_unaligned() } }
}

/// Writes a value, word by word.
///
/// # Safety
/// As for [`load`].
#[inline(always)]
pub(super) unsafe fn store<W: Word, T: Copy>(to: *mut T, value: T) {
    const { assert!(size_of::<T>().is_multiple_of(size_of::<W>())) };
    for index in 0..size_of::<T>() / size_of::<W>() {
        // SAFETY: within `value`, which may not be aligned, and within `to`, which is.
        unsafe {
            let word = (&raw const value).cast::<W>().add(index).read_unaligned();
            to.cast::<W>().add(index).write_volatile(word);
        }
    }
}
