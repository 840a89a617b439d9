//! Proves that a figure belongs to its variant: compares counters of what should have carried the packets.

use anyhow::{Result, ensure};
use flannel_common::outcome::{Hook, Outcome, Verdict};
use flannel_tests::kernel_vxlan::DEVICE;
use flannel_tests::{Node, metrics};

use super::bed::Bed;
use super::variant::Carrier;

const VNI: u32 = 1;
const UPLINK: &str = "eth0";

/// Counters of both nodes, read at one time.
pub(super) enum Counters {
    /// Not read, since nothing else could have carried the packets.
    None,
    /// Sent by the sending node's `flannel.1`, received by the receiving node's.
    Device([u64; 2]),
    /// Sent by the sending node's uplink, received by the receiving node's, and the same of `flannel.1`, where it is not to have
    /// carried them. Nothing else leads from pod to pod.
    Uplink { carried: [u64; 2], device: [u64; 2] },
    /// Outcomes of program runs.
    Programs([Tally; 2]),
}

/// Program runs on one node, counted by whether they are what the variant wants.
#[derive(Clone, Copy)]
pub(super) struct Tally {
    end: End,
    /// Runs that the variant wants.
    wanted: u64,
    /// All others.
    other: u64,
}

/// One of the two nodes, and what the variant wants there.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Programs encapsulate.
    SendingProgram,
    /// Programs decapsulate, except received aggregates, which the floor handles by design.
    ReceivingProgram,
    /// Programs take packets from the pod past the host stack.
    SendingShortcut,
    /// Programs take packets to the pod past the host stack.
    ReceivingShortcut,
}

impl End {
    /// Returns whether the variant wants this outcome. None if the packet is counted at another hook.
    fn wants(self, hook: Hook, outcome: Outcome) -> Option<bool> {
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
    /// Reads the counters that the variant needs.
    pub(super) fn read(bed: &Bed) -> Result<Self> {
        let Some(nodes @ [sender, receiver]) = bed.nodes() else { return Ok(Self::None) };
        Ok(match bed.variant.carrier() {
            Carrier::Uplink => Self::None,
            Carrier::KernelDevice => Self::Device(passed(nodes, DEVICE)?),
            Carrier::BarePrograms { aggregates } => {
                let [sent, received] = passed(nodes, DEVICE)?;
                let device = [sent, if aggregates { received } else { 0 }];
                Self::Uplink { carried: passed(nodes, UPLINK)?, device }
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

    /// Fails unless at least so many packets were counted since `before` on both nodes, and at least this share of all went the way
    /// of the variant.
    pub(super) fn ensure_since(&self, before: &Self, least: u64, share: Option<f64>) -> Result<()> {
        match (self, before) {
            (Self::Device(now), Self::Device(then)) => {
                let passed = difference(now, then);
                ensure!(
                    passed.iter().all(|passed| *passed >= least),
                    "{DEVICE} carried {passed:?} packets on the two nodes where the figure needs {least} or \
                     more: something else than the kernel's vxlan carries this variant"
                );
                Ok(())
            }
            (
                Self::Uplink { carried, device },
                Self::Uplink { carried: carried_then, device: device_then },
            ) => {
                let carried = difference(carried, carried_then);
                let device = difference(device, device_then);
                // Of what the uplink carries, the device's part is what the programs left to it.
                let past = [0, 1].map(|end: usize| carried[end].saturating_sub(device[end]));
                ensure!(
                    [0, 1].into_iter().all(|end: usize| is_enough(past[end], device[end], least, share)),
                    "the programs carried {past:?} packets on the two nodes and {DEVICE} {device:?}, where the figure \
                     needs {least} or more past {DEVICE}"
                );
                Ok(())
            }
            (Self::Programs(now), Self::Programs(then)) => {
                now.iter().zip(then).try_for_each(|(now, then)| now.since(*then).ensure(least, share))
            }
            _ => Ok(()),
        }
    }
}

/// Returns whether enough packets went the way of the variant. Without a share, those that went another way count as well.
fn is_enough(wanted: u64, other: u64, least: u64, share: Option<f64>) -> bool {
    match share {
        Some(share) => wanted >= least && wanted as f64 >= share * (wanted + other) as f64,
        None => wanted > 0 && wanted + other >= least,
    }
}

/// Returns what an interface of the sending node has sent, and that of the receiving node received.
fn passed([sender, receiver]: [&Node; 2], interface: &str) -> Result<[u64; 2]> {
    Ok([sender.counters(interface)?.1.packets, receiver.counters(interface)?.0.packets])
}

fn difference(now: &[u64; 2], then: &[u64; 2]) -> [u64; 2] {
    std::array::from_fn(|end| now[end] - then[end])
}

impl Tally {
    fn read(node: &Node, end: End) -> Result<Self> {
        let mut tally = Self { end, wanted: 0, other: 0 };
        for metric in metrics::read(node.bpffs()?, VNI)? {
            let outcome = Outcome::ALL.iter().find(|outcome| format!("{outcome:?}") == metric.outcome);
            let hook = Hook::ALL.iter().find(|hook| format!("{hook:?}") == metric.hook);
            match outcome.zip(hook).and_then(|(outcome, hook)| end.wants(*hook, *outcome)) {
                Some(true) => tally.wanted += metric.packets,
                Some(false) => tally.other += metric.packets,
                None => {}
            }
        }
        Ok(tally)
    }

    fn since(self, before: Self) -> Self {
        Self { end: self.end, wanted: self.wanted - before.wanted, other: self.other - before.other }
    }

    fn ensure(self, least: u64, share: Option<f64>) -> Result<()> {
        let Self { end, wanted, other } = self;
        ensure!(
            is_enough(wanted, other, least, share),
            "{end:?}: {wanted} packets were handled as the variant wants and {other} otherwise, where the figure needs \
             {least} or more (METRICS has the outcomes)"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::is_enough;

    #[test]
    fn packets_that_went_another_way_count_only_where_no_share_is_asked_for() {
        assert!(is_enough(99, 1, 99, Some(0.99)));
        assert!(!is_enough(99, 1, 100, Some(0.99)), "too few");
        assert!(!is_enough(990, 11, 99, Some(0.99)), "too many others");
        assert!(!is_enough(0, 0, 0, None), "nothing at all");
        assert!(is_enough(1, 98, 99, None));
        assert!(!is_enough(0, 99, 99, None), "all of them others");
    }
}
