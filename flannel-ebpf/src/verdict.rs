//! The end of every program run: one outcome, counted once, turned into one verdict.

use flannel_common::outcome::{Hook, MetricsKey, Outcome, Verdict};

use crate::maps;
use crate::packet::PacketAccess;

/// A packet that a program took over.
pub struct Carried {
    /// What was done.
    pub outcome: Outcome,
    /// The verdict that sends it on.
    pub action: i32,
}

/// Counts the run and gives the kernel its verdict. What was not taken over goes on as it is.
#[inline(always)]
pub fn conclude<P: PacketAccess>(hook: Hook, packet: &P, end: Result<Carried, Outcome>) -> i32 {
    let bytes = packet.frame_len();
    let (outcome, action) = match end {
        Ok(carried) => (carried.outcome, carried.action),
        Err(outcome) => (outcome, action_of::<P>(outcome)),
    };
    maps::count(MetricsKey { outcome, hook }, bytes.into());
    // Numbers: the agent has the names, and the verifier walks through this code once instead of once per name.
    // The loader sets the log level; below this one the verifier removes the code (frozen maps: Linux 5.2).
    aya_log_ebpf::debug!(packet.ctx(), "{} {} {}", hook as u32, outcome as u32, bytes);
    action
}

#[inline(always)]
fn action_of<P: PacketAccess>(outcome: Outcome) -> i32 {
    match outcome.verdict() {
        Verdict::Dropped => P::DROP,
        Verdict::Carried | Verdict::Floor | Verdict::Foreign => P::PASS,
    }
}
