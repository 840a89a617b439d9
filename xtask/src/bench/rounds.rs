//! Measures in rounds: every variant, metric by metric.

use anyhow::{Context as _, Result, bail};
use flannel_tests::interrupt;

use super::bed::Bed;
use super::machine::Machine;
use super::metric::Metric;
use super::proof::Counters;
use super::series::Series;
use crate::phase;

/// Measures, and prints a line per round.
pub(super) fn run(beds: &[Bed], machine: &Machine, rounds: u32, seconds: u32) -> Result<Vec<Series>> {
    let mut series: Vec<_> = beds.iter().map(|bed| Series::new(bed.variant)).collect();
    for round in 0..rounds {
        for metric in Metric::ALL {
            for place in order(beds.len(), round as usize) {
                ensure_wanted()?;
                let value = measure(&beds[place], machine, metric, seconds)?;
                series[place].add(metric, value);
            }
        }
        phase::note(&format!("round {} of {rounds}: {}", round + 1, summary(&series)));
    }
    Ok(series)
}

/// Fails after Ctrl-C.
pub(super) fn ensure_wanted() -> Result<()> {
    if interrupt::came() { bail!("interrupted") } else { Ok(()) }
}

/// Returns the order of variants in a round. The first one changes, and every other round runs backwards: a slow
/// change of the machine's speed favours no variant, and no variant always follows the same one.
fn order(count: usize, round: usize) -> Vec<usize> {
    let mut places: Vec<_> = (0..count).collect();
    places.rotate_left(round / 2 % count.max(1));
    if round % 2 == 1 {
        places.reverse();
    }
    places
}

fn measure(bed: &Bed, machine: &Machine, metric: Metric, seconds: u32) -> Result<f64> {
    let proved = || {
        let before = Counters::read(bed)?;
        let value = metric.measure(bed, machine, seconds)?;
        Counters::read(bed)?.ensure_since(&before, metric, value, seconds)?;
        anyhow::Ok(value)
    };
    let value = proved().with_context(|| format!("{} of {}", metric.title(), bed.variant.name()));
    // An interrupted measurement is no failure of the variant.
    ensure_wanted().and(value)
}

fn summary(series: &[Series]) -> String {
    let of = |series: &Series| {
        let last = |metric: Metric| series.of(metric).last().map(|value| metric.show_short(*value));
        let values: Vec<_> = Metric::ALL.into_iter().filter_map(last).collect();
        format!("{} {}", series.variant.name(), values.join("/"))
    };
    series.iter().map(of).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::order;

    #[test]
    fn every_variant_comes_at_every_place() {
        assert_eq!(order(3, 0), [0, 1, 2]);
        assert_eq!(order(3, 1), [2, 1, 0]);
        assert_eq!(order(3, 2), [1, 2, 0]);
        for place in 0..3 {
            let mut seen: Vec<_> = (0..6).map(|round| order(3, round)[place]).collect();
            seen.sort_unstable();
            assert_eq!(seen, [0, 0, 1, 1, 2, 2]);
        }
        assert!(order(0, 1).is_empty());
    }
}
