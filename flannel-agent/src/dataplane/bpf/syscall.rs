//! bpf(2), for commands that `aya` does not have.

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

/// Performs one command. Returns its result, which is not negative.
///
/// # Safety
///
/// `T` is laid out as the kernel reads `union bpf_attr` for this command. The pointers in `attributes` are valid until this
/// returns: for reads, and for writes where the command writes there, of as many bytes as the kernel takes for that
/// command, map and object.
pub(super) unsafe fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the size is that of `attributes`, which the caller has laid out for this command.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    i32::try_from(result).ok().filter(|result| *result >= 0).ok_or_else(io::Error::last_os_error)
}

/// Performs one command that opens a file descriptor.
///
/// # Safety
///
/// As for [`bpf`]. And the command returns a new file descriptor.
pub(super) unsafe fn bpf_open<T>(command: libc::c_int, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's contract includes that of `bpf`.
    let fd = unsafe { bpf(command, attributes) }?;
    // SAFETY: by the contract, the kernel has just opened the descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
