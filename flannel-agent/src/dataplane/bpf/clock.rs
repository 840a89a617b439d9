//! The programs' clock, for user space: it reads the clock by running a program.

use std::sync::LazyLock;

use anyhow::{Context as _, Result};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use flannel_common::abi;
use nix::time::{ClockId, clock_getres};

use super::pins::Pins;

/// The shortest frame that the kernel runs a program with, in bytes.
const FRAME: [u8; 14] = [0; 14];
/// The usual tick: 100 in a second.
const USUAL_TICK_NS: u64 = 10_000_000;

/// [`abi::TICK_NS`]: the resolution of the kernel's coarse clock is a tick.
pub(super) static TICK_NS: LazyLock<u64> = LazyLock::new(|| {
    clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_or(USUAL_TICK_NS, |tick| {
        tick.tv_sec().cast_unsigned() * 1_000_000_000 + tick.tv_nsec().cast_unsigned()
    })
});

/// Reads the clock of the programs with these pins, in nanoseconds.
///
/// # Errors
/// No program is pinned, or the kernel does not run it.
pub fn now(pins: &Pins) -> Result<u64> {
    let path = pins.path(abi::CLOCK);
    let clock = SchedClassifier::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
    read(&clock)
}

/// Reads the clock by this program, in nanoseconds.
///
/// # Errors
/// It is not loaded, or the kernel does not run it.
pub fn read(clock: &SchedClassifier) -> Result<u64> {
    let mut out = FRAME;
    let mut options = TestRunOptions::new();
    options.data_in = Some(&FRAME);
    options.data_out = Some(&mut out);
    clock.test_run(options).context("running the program that reads the clock")?;
    let (time, _) = out.split_first_chunk().context("a time has 8 bytes")?;
    Ok(u64::from_ne_bytes(*time))
}
