//! The end of every program run: its outcome is counted once and turned into one action.

use aya_log_ebpf::macro_support::{Level, level_enabled};
use flannel_common::outcome::{Hook, MetricsKey, Outcome};

use crate::maps;
use crate::packet::PacketAccess;

/// A packet that a program has taken over. With an outcome as error it fits into one register: the result of a function that
/// is not inlined needs no stack.
pub struct Carried {
    /// What the program has done.
    pub outcome: Outcome,
    /// The action that sends it on.
    pub action: i32,
}

const _: () = assert!(size_of::<Result<Carried, Outcome>>() == 8);

/// Counts the run and returns the action for the kernel.
#[inline(always)]
pub fn conclude<P: PacketAccess>(hook: Hook, packet: &P, result: Result<Carried, Outcome>) -> i32 {
    let bytes = packet.frame_len();
    let (outcome, action) = match result {
        Ok(carried) => (carried.outcome, carried.action),
        Err(outcome) => (outcome, action_of::<P>(outcome)),
    };
    record(hook, outcome, bytes);
    action
}

/// Counts the run.
#[inline(always)]
fn record(hook: Hook, outcome: Outcome, bytes: u32) {
    maps::count(MetricsKey { outcome, hook }, bytes.into());
    // The loader sets the log level. If debug messages are off, the verifier removes this code (frozen maps: Linux 5.2).
    if level_enabled(Level::Debug) {
        log(hook, outcome, bytes);
    }
}

/// Logs the run.
///
/// Not inlined: called at the end, it takes its stack beside that of the program, not within the longest chain of calls.
#[inline(never)]
fn log(hook: Hook, outcome: Outcome, bytes: u32) {
    // Numbers instead of names: the verifier would walk through the logging code once for each name. The agent adds them.
    aya_log_ebpf::debug!((), "{} {} {}", hook as u32, outcome as u32, bytes);
}

#[inline(always)]
fn action_of<P: PacketAccess>(outcome: Outcome) -> i32 {
    if outcome.is_drop() { P::DROP } else { P::PASS }
}
