//! The end of every program run: one outcome, counted once, turned into one TC verdict.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use flannel_common::outcome::{Hook, MetricsKey, Outcome, Verdict};

use crate::maps;
use crate::packet::Packet;

/// A packet that a program took over.
pub struct Carried {
    /// What was done.
    pub outcome: Outcome,
    /// The TC verdict that sends it on.
    pub action: i32,
}

/// Counts the run and gives the kernel its verdict. What was not taken over goes on to the next program and
/// then to the stack (`TC_ACT_UNSPEC`, the same number as `TCX_NEXT`).
#[inline(always)]
pub fn conclude(hook: Hook, packet: &Packet<'_>, end: Result<Carried, Outcome>) -> i32 {
    let bytes = packet.frame_len();
    let (outcome, action) = match end {
        Ok(carried) => (carried.outcome, carried.action),
        Err(outcome) => (outcome, action_of(outcome)),
    };
    maps::count(MetricsKey { outcome, hook }, bytes.into());
    // Numbers: the agent has the names, and the verifier walks through this code once instead of once per name.
    // The loader sets the log level; below this one the verifier removes the code (frozen maps: Linux 5.2).
    aya_log_ebpf::debug!(packet.ctx(), "{} {} {}", hook as u32, outcome as u32, bytes);
    action
}

#[inline(always)]
fn action_of(outcome: Outcome) -> i32 {
    match outcome.verdict() {
        Verdict::Dropped => TC_ACT_SHOT,
        Verdict::Carried | Verdict::Floor | Verdict::Foreign => TC_ACT_UNSPEC,
    }
}
