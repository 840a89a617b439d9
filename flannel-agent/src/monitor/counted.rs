//! Packets that programs have counted, and of which the agent has told nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use flannel_common::outcome::Outcome;

use crate::dataplane::bpf::counters::{self, Counters};
use crate::dataplane::bpf::pins::{self, Pins};
use crate::report::feed::What;

/// Packets by outcome.
type Totals = BTreeMap<Outcome, u64>;

/// Compares what is counted with what is told.
pub(super) struct Counted {
    bpffs: PathBuf,
    balance: Option<Balance>,
}

/// What was counted at the last reading, and what has been told of it. What was counted since then may still be on its way through
/// the agent.
struct Balance {
    counted: Totals,
    told: Totals,
}

impl Counted {
    /// Begins to compare: what was counted before is left out.
    pub(super) fn new(bpffs: &Path) -> Self {
        Self { bpffs: bpffs.to_owned(), balance: totals(bpffs).map(Balance::new) }
    }

    /// The agent has told this.
    pub(super) fn told(&mut self, what: &What) {
        let outcome = match what {
            What::Drop { outcome, .. } => outcome.as_str(),
            What::Miss { wanted, .. } if wanted == "lease" => Outcome::Unleased.name(),
            _ => return,
        };
        let outcome = Outcome::ALL.iter().find(|known| known.name() == outcome);
        if let (Some(balance), Some(outcome)) = (&mut self.balance, outcome) {
            *balance.told.entry(*outcome).or_default() += 1;
        }
    }

    /// Returns what was counted until the last call, and has not been told. Without programs there is nothing.
    pub(super) fn rest(&mut self) -> Vec<What> {
        let now = totals(&self.bpffs);
        match (&mut self.balance, now) {
            (Some(balance), Some(now)) => balance.settle(now),
            (balance, now) => {
                *balance = now.map(Balance::new);
                Vec::new()
            }
        }
    }
}

impl Balance {
    fn new(counted: Totals) -> Self {
        Self { told: counted.clone(), counted }
    }

    fn settle(&mut self, now: Totals) -> Vec<What> {
        let is_new = self.counted.iter().any(|(outcome, old)| now.get(outcome).is_none_or(|new| new < old));
        if is_new {
            // The maps were made anew.
            *self = Self::new(now);
            return Vec::new();
        }
        let mut rest = Vec::new();
        for (outcome, counted) in std::mem::replace(&mut self.counted, now) {
            let told = self.told.entry(outcome).or_default();
            if counted > *told {
                rest.push(What::Counted { outcome: outcome.name().to_owned(), packets: counted - *told });
                *told = counted;
            }
        }
        rest
    }
}

/// Reads the counters of all overlays whose packets the agent tells of, or that are dropped. `None` if there are no programs.
fn totals(bpffs: &Path) -> Option<Totals> {
    let overlays = pins::overlays(bpffs).ok()?;
    let all: Vec<_> =
        overlays.iter().filter_map(|vni| counters::read(&Pins::new(bpffs, *vni)).ok()).collect();
    (!all.is_empty()).then(|| sum(&all))
}

fn sum(all: &[Counters]) -> Totals {
    let mut totals = Totals::new();
    for (key, traffic) in all.iter().flatten() {
        if key.outcome.is_drop() || key.outcome == Outcome::Unleased {
            *totals.entry(key.outcome).or_default() += traffic.packets;
        }
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(refused: u64, congested: u64) -> Totals {
        [(Outcome::UnknownSender, refused), (Outcome::NotEcnCapable, congested)].into()
    }

    fn counted(outcome: Outcome, packets: u64) -> What {
        What::Counted { outcome: outcome.name().to_owned(), packets }
    }

    #[test]
    fn what_is_counted_and_not_told_is_shown_a_reading_later() {
        let balance = Some(Balance::new(totals(100, 7)));
        let mut counted_ones = Counted { bpffs: "none".into(), balance };
        let dropped = What::Drop {
            outcome: Outcome::UnknownSender.name().to_owned(),
            source: [10, 5, 1, 2].into(),
            node: None,
        };
        (0..50).for_each(|_| counted_ones.told(&dropped));
        let balance = counted_ones.balance.as_mut().unwrap();
        assert_eq!(balance.settle(totals(180, 7)), [], "the agent may still tell them");
        assert_eq!(balance.settle(totals(180, 9)), [counted(Outcome::UnknownSender, 30)]);
        assert_eq!(balance.settle(totals(180, 9)), [counted(Outcome::NotEcnCapable, 2)]);
        assert_eq!(balance.settle(totals(180, 9)), []);
        assert_eq!(balance.settle(totals(5, 9)), [], "the maps were made anew");
        balance.settle(totals(6, 9));
        assert_eq!(balance.settle(totals(6, 9)), [counted(Outcome::UnknownSender, 1)]);
    }
}
