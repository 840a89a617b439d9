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

/// Program runs at one hook of one node.
#[derive(Clone, Copy)]
pub(super) struct Tally {
    hook: Hook,
    /// Carried by the program.
    carried: u64,
    /// Received aggregates, which are the floor's by design.
    aggregates: u64,
    /// Left to the floor, or dropped.
    other: u64,
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
                Tally::read(sender, Hook::OverlayEgress)?,
                Tally::read(receiver, Hook::UnderlayIngress)?,
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
    fn read(node: &Node, hook: Hook) -> Result<Self> {
        let mut tally = Self { hook, carried: 0, aggregates: 0, other: 0 };
        let at_hook = |metric: &metrics::Metric| metric.hook == format!("{hook:?}");
        for metric in metrics::read(node.bpffs()?, VNI)?.into_iter().filter(at_hook) {
            let outcome = Outcome::ALL.iter().find(|outcome| format!("{outcome:?}") == metric.outcome);
            match outcome.map(|outcome| (outcome, outcome.verdict())) {
                Some((_, Verdict::Carried)) => tally.carried += metric.packets,
                Some((_, Verdict::Foreign)) => {}
                Some((Outcome::GsoAggregate, _)) => tally.aggregates += metric.packets,
                _ => tally.other += metric.packets,
            }
        }
        Ok(tally)
    }

    fn since(self, before: Self) -> Self {
        Self {
            hook: self.hook,
            carried: self.carried - before.carried,
            aggregates: self.aggregates - before.aggregates,
            other: self.other - before.other,
        }
    }

    fn ensure(self, least: u64) -> Result<()> {
        let Self { hook, carried, aggregates, other } = self;
        let rightly = carried + aggregates;
        let share = rightly as f64 / (rightly + other).max(1) as f64;
        ensure!(
            rightly >= least && share >= SHARE,
            "{hook:?} carried {carried} packets and left {aggregates} aggregates and {other} others to the \
             kernel, where {least} or more belong to the figure: BPF does not carry this variant (METRICS says why)"
        );
        Ok(())
    }
}
