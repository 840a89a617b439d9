//! Proof that a figure belongs to its variant: what should have carried the packets did.

use anyhow::{Result, ensure};
use flannel_common::outcome::{Hook, Outcome, Verdict};
use flannel_tests::{Node, metrics};

use super::bed::Bed;
use super::metric::Metric;
use super::variant::Carrier;

const VNI: u32 = 1;
const DEVICE: &str = "flannel.1";
/// The part of the overlay's packets that programs must have carried.
const SHARE: f64 = 0.99;

/// Counters of both nodes at one time.
pub(super) enum Counters {
    /// Nothing else could have carried.
    Needless,
    /// Sent by the sending node's `flannel.1`, received by the receiving node's.
    Device([u64; 2]),
    /// What became of program runs.
    Programs([Tally; 2]),
}

/// Program runs on one node, by where packets go from there.
#[derive(Clone, Copy)]
pub(super) struct Tally {
    end: End,
    /// As the variant means them to go.
    rightly: u64,
    /// Any other way.
    other: u64,
}

/// Which of the two nodes, and what the variant wants there.
#[derive(Clone, Copy, Debug)]
enum End {
    /// BPF wraps.
    SendingProgram,
    /// BPF unwraps, but for received aggregates, which are the floor's by design.
    ReceivingProgram,
    /// From the pod past the host stack.
    SendingShortcut,
    /// To the pod past the host stack.
    ReceivingShortcut,
}

impl End {
    /// Whether a packet goes the right way by this, or the wrong one, or is seen elsewhere too.
    fn judge(self, hook: Hook, outcome: Outcome) -> Option<bool> {
        use Hook::{OverlayEgress, OverlayIngress, PodEgress, UnderlayIngress};
        use Outcome::{Delivered, GsoAggregate};
        let verdict = outcome.verdict();
        match (self, hook) {
            (Self::SendingProgram | Self::SendingShortcut, PodEgress) if verdict == Verdict::Carried => {
                Some(true)
            }
            (Self::SendingProgram, OverlayEgress) => Some(verdict == Verdict::Carried),
            (Self::SendingShortcut, OverlayEgress) => Some(false),
            (Self::ReceivingProgram, UnderlayIngress) if verdict != Verdict::Foreign => {
                Some(verdict == Verdict::Carried || outcome == GsoAggregate)
            }
            (Self::ReceivingShortcut, UnderlayIngress) if outcome == Delivered => Some(true),
            (Self::ReceivingShortcut, OverlayIngress) => Some(outcome == Delivered),
            _ => None,
        }
    }
}

impl Counters {
    pub(super) fn read(bed: &Bed) -> Result<Self> {
        let Some([sender, receiver]) = bed.nodes() else { return Ok(Self::Needless) };
        Ok(match bed.variant.carrier() {
            Carrier::Uplink => Self::Needless,
            Carrier::KernelDevice => {
                Self::Device([sender.counters(DEVICE)?.1.packets, receiver.counters(DEVICE)?.0.packets])
            }
            Carrier::Programs => Self::Programs([
                Tally::read(sender, End::SendingProgram)?,
                Tally::read(receiver, End::ReceivingProgram)?,
            ]),
            Carrier::Shortcut => Self::Programs([
                Tally::read(sender, End::SendingShortcut)?,
                Tally::read(receiver, End::ReceivingShortcut)?,
            ]),
        })
    }

    /// Fails unless what happened since `before` accounts for the value.
    pub(super) fn ensure_since(&self, before: &Self, metric: Metric, value: f64, seconds: u32) -> Result<()> {
        let least = metric.least_packets(value, seconds);
        match (self, before) {
            (Self::Device(now), Self::Device(then)) => {
                let passed: [u64; 2] = std::array::from_fn(|end| now[end] - then[end]);
                ensure!(
                    passed.iter().all(|passed| *passed >= least),
                    "{DEVICE} carried {passed:?} packets on the two nodes where {least} or more belong to the \
                     figure: something else than the kernel's vxlan carries this variant"
                );
                Ok(())
            }
            (Self::Programs(now), Self::Programs(then)) => {
                now.iter().zip(then).try_for_each(|(now, then)| now.since(*then).ensure(least))
            }
            _ => Ok(()),
        }
    }
}

impl Tally {
    fn read(node: &Node, end: End) -> Result<Self> {
        let mut tally = Self { end, rightly: 0, other: 0 };
        for metric in metrics::read(node.bpffs()?, VNI)? {
            let outcome = Outcome::ALL.iter().find(|outcome| format!("{outcome:?}") == metric.outcome);
            let hook = Hook::ALL.iter().find(|hook| format!("{hook:?}") == metric.hook);
            match outcome.zip(hook).and_then(|(outcome, hook)| end.judge(*hook, *outcome)) {
                Some(true) => tally.rightly += metric.packets,
                Some(false) => tally.other += metric.packets,
                None => {}
            }
        }
        Ok(tally)
    }

    fn since(self, before: Self) -> Self {
        Self { end: self.end, rightly: self.rightly - before.rightly, other: self.other - before.other }
    }

    fn ensure(self, least: u64) -> Result<()> {
        let Self { end, rightly, other } = self;
        let share = rightly as f64 / (rightly + other).max(1) as f64;
        ensure!(
            rightly >= least && share >= SHARE,
            "{end:?}: {rightly} packets went the variant's way and {other} another, where {least} or more belong \
             to the figure (METRICS says why)"
        );
        Ok(())
    }
}
