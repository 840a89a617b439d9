//! The programs' clock: the kernel's ticks, in nanoseconds. A helper that reads another clock takes 25 ns; this one is inlined.

use aya_ebpf::helpers::generated::bpf_jiffies64;

/// [`flannel_common::abi::TICK_NS`]
#[unsafe(no_mangle)]
static TICK_NS: u64 = 0;

/// Returns the time in nanoseconds, as of the last tick (`bpf_jiffies64`: Linux 5.5). It begins anywhere.
#[inline(always)]
#[must_use]
pub fn now() -> u64 {
    // SAFETY: a number that lives as long as the program. The loader sets it, which the compiler must not know.
    let tick = unsafe { (&raw const TICK_NS).read_volatile() };
    // SAFETY: a helper call without arguments.
    unsafe { bpf_jiffies64() }.wrapping_mul(tick)
}
