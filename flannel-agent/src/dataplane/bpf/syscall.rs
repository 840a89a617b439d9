//! bpf(2), for what `aya` does not have.

use std::io;

/// Does one command; `attributes` are what the kernel reads as `union bpf_attr` for it, and may write to.
pub(super) fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: `attributes` is laid out as the kernel reads it for this command, and it and what it points to live through
    // the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    i32::try_from(result).ok().filter(|result| *result >= 0).ok_or_else(io::Error::last_os_error)
}
