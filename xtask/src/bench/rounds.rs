//! Measures in rounds: every variant, metric by metric.

use anyhow::{Context as _, Result, bail};
use flannel_tests::interrupt;

use super::args::Args;
use super::bed::Bed;
use super::machine::Machine;
use super::metric::Metric;
use super::proof::Counters;
use super::scenario::{Measured, Scenario};
use super::series::Series;
use crate::phase;

/// Measures, and prints a line per round.
pub(super) fn run(beds: &[Bed], machine: &Machine, args: &Args) -> Result<Vec<Series>> {
    let mut series: Vec<_> = beds.iter().map(|bed| Series::new(bed.variant)).collect();
    let (metrics, rounds) = (Metric::chosen(&args.metric), args.rounds);
    let mut scenarios: Vec<_> = metrics.iter().map(|metric| metric.scenario()).collect();
    // Metrics of one scenario stand together in their list.
    scenarios.dedup();
    for round in 0..rounds {
        for scenario in &scenarios {
            for place in order(beds.len(), round as usize) {
                ensure_wanted()?;
                let measured = measure(&beds[place], machine, *scenario, args.seconds)?;
                let of_scenario = metrics.iter().filter(|metric| metric.scenario() == *scenario);
                for metric in of_scenario {
                    let value = metric.value(&measured).context("the scenario has no such figure")?;
                    series[place].add(*metric, value);
                }
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

fn measure(bed: &Bed, machine: &Machine, scenario: Scenario, seconds: u32) -> Result<Measured> {
    let proved = || {
        let before = Counters::read(bed)?;
        let measured = scenario.measure(bed, machine, seconds)?;
        let least = measured.least_packets();
        Counters::read(bed)?.ensure_since(&before, least, scenario.share(bed.variant.carrier()))?;
        anyhow::Ok(measured)
    };
    let measured = proved().with_context(|| format!("{scenario:?} of {}", bed.variant.name()));
    // An interrupted measurement is no failure of the variant.
    ensure_wanted().and(measured)
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
