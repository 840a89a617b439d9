//! The share of packets by their way. Pure.

use std::collections::BTreeMap;

use flannel_common::outcome::{Hook, Outcome, Verdict};

use super::model::{Drop, Traffic};
use crate::dataplane::bpf::counters::Counters;

impl Traffic {
    /// Sums the counters up. A packet that several programs see counts once.
    pub(super) fn of(counters: &Counters) -> Self {
        let mut traffic = Self::default();
        // Aggregates that the kernel has unwrapped, and that then pass by the host stack.
        let mut late = 0;
        let mut drops = BTreeMap::<Outcome, u64>::new();
        for (key, counted) in counters {
            let packets = counted.packets;
            match (key.hook, key.outcome.verdict()) {
                (_, Verdict::Dropped) => *drops.entry(key.outcome).or_default() += packets,
                (Hook::PodEgress, Verdict::Carried) => traffic.shortcut += packets,
                (Hook::UnderlayIngress, Verdict::Carried) if key.outcome == Outcome::Delivered => {
                    traffic.shortcut += packets;
                }
                (Hook::OverlayEgress | Hook::UnderlayIngress, Verdict::Carried) => {
                    traffic.programs += packets;
                }
                (Hook::OverlayIngress, Verdict::Carried) => late += packets,
                (Hook::OverlayEgress | Hook::UnderlayIngress | Hook::SideIngress, Verdict::Floor) => {
                    traffic.floor += packets;
                }
                // Seen by another program as well, or none of the overlay's.
                _ => {}
            }
        }
        traffic.shortcut += late;
        traffic.floor = traffic.floor.saturating_sub(late);
        let drops = drops.into_iter().map(|(outcome, packets)| Drop {
            outcome: outcome.name(),
            meaning: outcome.help(),
            packets,
        });
        traffic.drops = drops.collect();
        traffic.drops.sort_by_key(|drop| std::cmp::Reverse(drop.packets));
        traffic
    }

    /// Returns the shares of shortcut, programs and floor in tenths of a percent, rounded; `None` without packets.
    pub(super) fn shares(&self) -> Option<[u64; 3]> {
        let Self { shortcut, programs, floor, .. } = self;
        let all = u128::from(shortcut + programs + floor);
        let share = |part: u64| u64::try_from((u128::from(part) * 1000 + all / 2) / all).unwrap_or(1000);
        (all > 0).then(|| [*shortcut, *programs, *floor].map(share))
    }
}

#[cfg(test)]
mod tests {
    use flannel_common::outcome::{MetricsKey, Traffic as Counted};

    use super::*;

    #[test]
    fn each_packet_counts_once() {
        let counters = [
            (Hook::PodEgress, Outcome::Encapsulated, 10),
            (Hook::PodEgress, Outcome::FlowNew, 5),
            (Hook::OverlayEgress, Outcome::Encapsulated, 5),
            (Hook::OverlayEgress, Outcome::AfterShortcut, 10),
            (Hook::UnderlayIngress, Outcome::Delivered, 20),
            (Hook::UnderlayIngress, Outcome::Decapsulated, 7),
            (Hook::UnderlayIngress, Outcome::NotVxlan, 1000),
            (Hook::UnderlayIngress, Outcome::GsoAggregate, 6),
            (Hook::OverlayIngress, Outcome::Delivered, 4),
            (Hook::PodIngress, Outcome::FlowProven, 7),
            (Hook::UnderlayIngress, Outcome::ForgedSender, 2),
            (Hook::OverlayIngress, Outcome::UncheckedSender, 3),
        ];
        let counters = counters.into_iter().map(|(hook, outcome, packets)| {
            (MetricsKey { outcome, hook }, Counted { packets, bytes: 100 * packets })
        });
        let traffic = Traffic::of(&counters.collect());
        assert_eq!((traffic.shortcut, traffic.programs, traffic.floor), (34, 12, 2));
        let drops: Vec<_> = traffic.drops.iter().map(|drop| (drop.outcome, drop.packets)).collect();
        assert_eq!(drops, [("unchecked-sender", 3), ("forged-sender", 2)]);
        assert_eq!(traffic.shares(), Some([708, 250, 42]));
        assert_eq!(Traffic::default().shares(), None);
    }
}
