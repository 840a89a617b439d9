//! Proves that a figure belongs to its variant: compares counters of what should have carried the packets.

use anyhow::{Result, ensure};
use flannel_common::outcome::{Hook, Outcome, Verdict};
use flannel_tests::kernel_vxlan::DEVICE;
use flannel_tests::{Node, flowtable, metrics};

use super::bed::Bed;
use super::variant::Carrier;

const UPLINK: &str = "eth0";

/// Packets of the sending and of the receiving node, counted at one time. None where nothing else could have carried them.
pub(super) struct Counters(Option<[Tally; 2]>);

/// Packets on one node, by whether they went the way that the variant wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tally {
    all: u64,
    /// Those of them that went another way.
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
        let Some(nodes) = bed.nodes() else { return Ok(Self(None)) };
        Ok(Self(match bed.variant.carrier() {
            Carrier::Uplink => None,
            Carrier::KernelDevice => Some(tallies(passed(nodes, DEVICE)?, [0, 0])),
            Carrier::Flowtable => {
                let [sender, receiver] = nodes.map(flowtable::forwarded);
                Some(tallies(passed(nodes, DEVICE)?, [sender?, receiver?]))
            }
            Carrier::BarePrograms { aggregates } => {
                let [sent, received] = passed(nodes, DEVICE)?;
                let left = [sent, if aggregates { received } else { 0 }];
                Some(tallies(passed(nodes, UPLINK)?, left))
            }
            Carrier::Programs => Some(of_programs(nodes, [End::SendingProgram, End::ReceivingProgram])?),
            Carrier::Shortcut => Some(of_programs(nodes, [End::SendingShortcut, End::ReceivingShortcut])?),
            Carrier::UntunnelledShortcut => {
                let all = passed(nodes, UPLINK)?;
                let past = of_programs(nodes, [End::SendingShortcut, End::ReceivingShortcut])?;
                Some(tallies(all, [0, 1].map(|node: usize| all[node].saturating_sub(past[node].all))))
            }
        }))
    }

    /// Fails unless at least so many packets were counted since `before` on both nodes, and at least this share of all went the way
    /// of the variant. Without a share, those that went another way count as well.
    pub(super) fn ensure_since(&self, before: &Self, least: u64, share: Option<f64>) -> Result<()> {
        let (Some(now), Some(then)) = (self.0, before.0) else { return Ok(()) };
        for (node, (now, then)) in ["sending", "receiving"].into_iter().zip(now.into_iter().zip(then)) {
            let Tally { all, other } = now.since(then);
            let wanted = all.saturating_sub(other);
            ensure!(
                is_enough(wanted, other, least, share),
                "on the {node} node {wanted} packets went the way of the variant and {other} another one, where the figure needs \
                 {least} or more (the devices', METRICS and the rules' counters show where they went)"
            );
        }
        Ok(())
    }
}

fn is_enough(wanted: u64, other: u64, least: u64, share: Option<f64>) -> bool {
    match share {
        Some(share) => wanted >= least && wanted as f64 >= share * (wanted + other) as f64,
        None => wanted + other >= least,
    }
}

fn tallies(all: [u64; 2], other: [u64; 2]) -> [Tally; 2] {
    [0, 1].map(|node: usize| Tally { all: all[node], other: other[node] })
}

/// Returns what an interface of the sending node has sent, and that of the receiving node received.
fn passed([sender, receiver]: [&Node; 2], interface: &str) -> Result<[u64; 2]> {
    Ok([sender.counters(interface)?.1.packets, receiver.counters(interface)?.0.packets])
}

fn of_programs([sender, receiver]: [&Node; 2], ends: [End; 2]) -> Result<[Tally; 2]> {
    Ok([Tally::of_programs(sender, ends[0])?, Tally::of_programs(receiver, ends[1])?])
}

impl Tally {
    fn of_programs(node: &Node, end: End) -> Result<Self> {
        let (bpffs, mut tally) = (node.bpffs()?, Self { all: 0, other: 0 });
        for metric in metrics::read(bpffs, metrics::only_network(bpffs)?)? {
            let outcome = Outcome::ALL.iter().find(|outcome| format!("{outcome:?}") == metric.outcome);
            let hook = Hook::ALL.iter().find(|hook| format!("{hook:?}") == metric.hook);
            let Some(wanted) = outcome.zip(hook).and_then(|(outcome, hook)| end.wants(*hook, *outcome))
            else {
                continue;
            };
            tally.all += metric.packets;
            tally.other += if wanted { 0 } else { metric.packets };
        }
        Ok(tally)
    }

    fn since(self, before: Self) -> Self {
        // Where `other` is a difference of counters that are read one after the other, it may go back by a few packets.
        Self { all: self.all - before.all, other: self.other.saturating_sub(before.other) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_nodes_have_to_account_for_the_figure() {
        let counters = |all, other| Counters(Some(tallies(all, other)));
        let before = counters([10, 20], [1, 2]);
        let check = |now: Counters| now.ensure_since(&before, 100, Some(0.99));
        assert!(check(counters([110, 120], [1, 2])).is_ok());
        let error = check(counters([110, 119], [1, 2])).unwrap_err().to_string();
        assert!(error.starts_with("on the receiving node 99 packets went"), "{error}");
        let error = check(counters([210, 220], [11, 2])).unwrap_err().to_string();
        assert!(
            error.starts_with("on the sending node 190 packets went the way of the variant and 10"),
            "{error}"
        );
        assert!(Counters(None).ensure_since(&Counters(None), 100, None).is_ok());
    }

    #[test]
    fn packets_that_went_another_way_count_only_where_no_share_is_asked_for() {
        assert!(is_enough(99, 1, 99, Some(0.99)));
        assert!(!is_enough(99, 1, 100, Some(0.99)), "too few");
        assert!(!is_enough(990, 11, 99, Some(0.99)), "too many others");
        assert!(is_enough(1, 98, 99, None));
        assert!(is_enough(0, 99, 99, None), "short connections never take the shortcut");
        assert!(!is_enough(1, 97, 99, None), "too few");
    }
}
