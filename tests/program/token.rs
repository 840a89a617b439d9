//! Test runs of packets that carry a token. BPF_PROG_TEST_RUN cannot set `tc_index` or the hash of the flow, so that a small
//! program sets both and goes on with the program under test.

use std::ffi::c_long;
use std::io::{Error, Result};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use flannel_common::fingerprint::Token;

// Commands and types of bpf(2), from linux/bpf.h.
const MAP_CREATE: c_long = 0;
const MAP_UPDATE_ELEM: c_long = 2;
const PROG_LOAD: c_long = 5;
const PROG_TEST_RUN: c_long = 10;
const PROG_ARRAY: u32 = 3;
const SCHED_CLS: u32 = 3;
/// Offset of `tc_index` in `struct __sk_buff`.
const TC_INDEX: u64 = 44;

/// The hash of the flow that a packet with a token has.
pub(super) const FLOW_HASH: u32 = 0x00c0_ffee;

/// The program, and the map that leads to the program under test.
pub(super) struct Carrier {
    program: OwnedFd,
    _next: OwnedFd,
}

/// What a run gives: the action, and the length of the frame.
pub(super) struct Ran {
    pub(super) action: i32,
    pub(super) length: usize,
}

impl Carrier {
    /// Loads it for one program and one token.
    pub(super) fn load(target: BorrowedFd<'_>, token: Token) -> Result<Self> {
        let next = program_array()?;
        let (key, value) = (0u32, target.as_raw_fd());
        let words = [next.as_raw_fd() as u64, (&raw const key) as u64, (&raw const value) as u64, 0];
        call(MAP_UPDATE_ELEM, &words)?;
        let instructions = [
            // r6 = ctx; r2 = hash; bpf_set_hash(ctx, r2); r1 = r6
            0xbf | 6 << 8 | 1 << 12,
            0xb7 | 2 << 8 | u64::from(FLOW_HASH) << 32,
            0x85 | 48 << 32,
            0xbf | 1 << 8 | 6 << 12,
            // r2 = token; ctx->tc_index = r2
            0xb7 | 2 << 8 | u64::from(token.0) << 32,
            0x63 | 1 << 8 | 2 << 12 | TC_INDEX << 16,
            // r2 = the map, in two instructions; r3 = 0; bpf_tail_call(ctx, r2, r3)
            0x18 | 2 << 8 | 1 << 12 | (next.as_raw_fd() as u64) << 32,
            0,
            0xb7 | 3 << 8,
            0x85 | 12 << 32,
            // The call does not return. r0 = 0; exit
            0xb7,
            0x95,
        ];
        let licence = c"GPL";
        let kind = u64::from(SCHED_CLS) | (instructions.len() as u64) << 32;
        let words = [kind, instructions.as_ptr() as u64, licence.as_ptr() as u64, 0, 0, 0];
        Ok(Self { program: owned(call(PROG_LOAD, &words)?), _next: next })
    }

    /// Runs a frame with this context.
    pub(super) fn run(
        &self,
        frame: &[u8],
        context: &[u8],
        out: &mut [u8],
        context_out: &mut [u8],
    ) -> Result<Ran> {
        let pair = |low: usize, high: usize| low as u64 | (high as u64) << 32;
        let mut words = [
            pair(self.program.as_fd().as_raw_fd() as usize, 0),
            pair(frame.len(), out.len()),
            frame.as_ptr() as u64,
            out.as_mut_ptr() as u64,
            0,
            pair(context.len(), context_out.len()),
            context.as_ptr() as u64,
            context_out.as_mut_ptr() as u64,
        ];
        call_mut(PROG_TEST_RUN, &mut words)?;
        Ok(Ran { action: (words[0] >> 32) as i32, length: (words[1] >> 32) as usize })
    }
}

fn program_array() -> Result<OwnedFd> {
    let words = [u64::from(PROG_ARRAY) | 4 << 32, 4 | 1 << 32, 0];
    call(MAP_CREATE, &words).map(owned)
}

fn owned(fd: c_long) -> OwnedFd {
    // SAFETY: the kernel has just made it, for this process alone.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

fn call(command: c_long, words: &[u64]) -> Result<c_long> {
    call_mut(command, &mut words.to_vec())
}

/// Calls bpf(2) with a `union bpf_attr` of these words.
fn call_mut(command: c_long, words: &mut [u64]) -> Result<c_long> {
    // SAFETY: the callers' words follow linux/bpf.h for their command. What they point to lives through the call and is as
    // long as they say.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, words.as_mut_ptr(), size_of_val(words)) };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}
