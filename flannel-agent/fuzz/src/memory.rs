//! The C library's functions for memory, for targets that link the BPF programs.
//!
//! aya-ebpf defines them for BPF, where nobody reads what they return, and on the host takes the place of the C library's. libFuzzer, which
//! is C++, reads what they return and crashes. These are the C library's again, by the names that it has for checked calls.

use std::ffi::{c_int, c_void};

unsafe extern "C" {
    fn __memcpy_chk(to: *mut c_void, from: *const c_void, len: usize, room: usize) -> *mut c_void;
    fn __memmove_chk(to: *mut c_void, from: *const c_void, len: usize, room: usize) -> *mut c_void;
    fn __memset_chk(to: *mut c_void, byte: c_int, len: usize, room: usize) -> *mut c_void;
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut c_void, from: *const c_void, len: usize) -> *mut c_void {
    // SAFETY: see the caller.
    unsafe { __memcpy_chk(to, from, len, usize::MAX) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut c_void, from: *const c_void, len: usize) -> *mut c_void {
    // SAFETY: see the caller.
    unsafe { __memmove_chk(to, from, len, usize::MAX) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut c_void, byte: c_int, len: usize) -> *mut c_void {
    // SAFETY: see the caller.
    unsafe { __memset_chk(to, byte, len, usize::MAX) }
}
