//! Copies headers out of packets and into them, in words of four bytes at any address.
//!
//! The kernel's packet memory may be accessed so where the programs run (CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS: x86-64 and
//! arm64), and the verifier allows it there and nowhere else. Rust's unaligned accesses would go byte by byte: LLVM does not
//! know, and if told so (`allows-misaligned-mem-access`, LLVM 22) does the same with the stack, which the verifier forbids.

use core::mem::MaybeUninit;

use super::{Aligned, Header};

/// Copies a header out of a packet.
///
/// # Safety
/// `from` points to as many bytes of packet memory as the header has.
#[inline(always)]
pub(super) unsafe fn load<T: Header>(from: *const u8) -> Aligned<T> {
    let mut copy = MaybeUninit::<Aligned<T>>::uninit();
    let to = copy.as_mut_ptr().cast::<u8>();
    let (words, rest) = (size_of::<T>() / 4, size_of::<T>() % 4);
    // SAFETY: each access lies within the packet's bytes and within `copy`. Together they copy the whole header, which may have
    // any bits (`Header`).
    unsafe {
        for at in (0..words).map(|word| word * 4) {
            to.add(at).cast::<u32>().write(read(from.add(at).cast()));
        }
        let at = words * 4;
        if rest >= 2 {
            to.add(at).cast::<u16>().write(read(from.add(at).cast()));
        }
        if rest % 2 != 0 {
            to.add(at + rest - 1).write(read(from.add(at + rest - 1)));
        }
        copy.assume_init()
    }
}

/// Copies a header into a packet.
///
/// # Safety
/// `to` points to as many bytes of packet memory as the header has.
#[inline(always)]
pub(super) unsafe fn store<T: Header>(to: *mut u8, header: &Aligned<T>) {
    let from = core::ptr::from_ref(header).cast::<u8>();
    let (words, rest) = (size_of::<T>() / 4, size_of::<T>() % 4);
    // SAFETY: each access lies within the header and within the packet's bytes.
    unsafe {
        for at in (0..words).map(|word| word * 4) {
            write(to.add(at).cast(), from.add(at).cast::<u32>().read());
        }
        let at = words * 4;
        if rest >= 2 {
            write(to.add(at).cast(), from.add(at).cast::<u16>().read());
        }
        if rest % 2 != 0 {
            write(to.add(at + rest - 1), from.add(at + rest - 1).read());
        }
    }
}

/// Reads a number of packet memory, at any address.
///
/// # Safety
/// It lies within packet memory.
#[inline(always)]
unsafe fn read<W: Copy>(from: *const W) -> W {
    // SAFETY: see the caller. For BPF the address is taken for an aligned one, which it may not be: one load comes of it.
    unsafe { if cfg!(target_arch = "bpf") { from.read() } else { from.read_unaligned() } }
}

/// Writes a number of packet memory, at any address.
///
/// # Safety
/// It lies within packet memory.
#[inline(always)]
unsafe fn write<W: Copy>(to: *mut W, value: W) {
    // SAFETY: as in `read`.
    unsafe { if cfg!(target_arch = "bpf") { to.write(value) } else { to.write_unaligned(value) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_copied<const LEN: usize>() {
        let bytes: [u8; LEN] = core::array::from_fn(|at| at as u8 + 1);
        for offset in 0..4 {
            let mut memory = [0; 32];
            // SAFETY: within `memory`.
            let copied: Aligned<[u8; LEN]> = unsafe {
                store(memory.as_mut_ptr().add(offset), &Aligned(bytes));
                load(memory.as_ptr().add(offset))
            };
            assert_eq!(*copied, bytes, "at {offset}");
            assert_eq!(memory[offset..offset + LEN], bytes, "at {offset}");
            let around = memory[..offset].iter().chain(&memory[offset + LEN..]);
            assert_eq!(around.copied().map(u32::from).sum::<u32>(), 0, "bytes around {LEN} at {offset}");
        }
    }

    #[test]
    fn headers_of_every_length_are_copied_whole() {
        is_copied::<1>();
        is_copied::<2>();
        is_copied::<3>();
        is_copied::<4>();
        is_copied::<7>();
        is_copied::<14>();
        is_copied::<20>();
    }
}
