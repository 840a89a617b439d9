//! Memory that is free, and that the allocator keeps.

/// Returns free memory to the kernel, of all threads. To be called after work that took much for a moment: glibc keeps what lies
/// below memory that is in use. musl, which releases are linked with, has no such call.
pub(crate) fn release() {
    #[cfg(target_env = "gnu")]
    // SAFETY: there are no pointers, and the allocator releases free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}
