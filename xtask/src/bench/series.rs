//! Samples, medians and ratios.

use super::metric::Metric;
use super::variant::Variant;

/// All samples of a variant: for each metric one per round, in the order of rounds.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) variant: Variant,
    samples: [Vec<f64>; Metric::ALL.len()],
}

impl Series {
    pub(super) fn new(variant: Variant) -> Self {
        Self { variant, samples: Default::default() }
    }

    pub(super) fn add(&mut self, metric: Metric, sample: f64) {
        self.samples[metric as usize].push(sample);
    }

    pub(super) fn of(&self, metric: Metric) -> &[f64] {
        &self.samples[metric as usize]
    }

    pub(super) fn median(&self, metric: Metric) -> f64 {
        median(self.of(metric))
    }

    /// Returns the smallest and the largest sample.
    pub(super) fn range(&self, metric: Metric) -> (f64, f64) {
        let samples = self.of(metric).iter().copied();
        (samples.clone().fold(f64::INFINITY, f64::min), samples.fold(0.0, f64::max))
    }

    /// Returns how many times as good as the other it is: the median of the rounds' ratios, since what disturbs a round
    /// disturbs both of its samples.
    pub(super) fn ratio_to(&self, other: &Self, metric: Metric) -> f64 {
        let pairs = self.of(metric).iter().zip(other.of(metric));
        let ratios = pairs.map(|(own, other)| if metric.is_cost() { other / own } else { own / other });
        median(&ratios.collect::<Vec<_>>())
    }
}

/// Returns the metrics that were measured.
pub(super) fn metrics(series: &[Series]) -> Vec<Metric> {
    let is_measured = |metric: &Metric| series.iter().any(|one| !one.of(*metric).is_empty());
    Metric::ALL.into_iter().filter(is_measured).collect()
}

/// Returns a variant's series, if it was measured.
pub(super) fn find(series: &[Series], variant: Variant) -> Option<&Series> {
    series.iter().find(|series| series.variant == variant)
}

/// Returns the middle sample, or the mean of the middle two.
pub(super) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[length / 2],
        length => f64::midpoint(sorted[length / 2 - 1], sorted[length / 2]),
    }
}

/// Returns the smallest sample that at least this part of all does not exceed: 0.99.
#[allow(
    clippy::cast_sign_loss,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a rank among them"
)]
pub(super) fn percentile(samples: &[f64], part: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRIC: Metric = Metric::Bulk;

    fn series(samples: &[f64]) -> Series {
        series_of(METRIC, samples)
    }

    fn series_of(metric: Metric, samples: &[f64]) -> Series {
        let mut series = Series::new(Variant::Veth);
        samples.iter().for_each(|sample| series.add(metric, *sample));
        series
    }

    #[test]
    fn the_median_is_the_middle_one_or_between_the_middle_two() {
        assert_eq!(series(&[9.0, 1.0, 5.0]).median(METRIC), 5.0);
        assert_eq!(series(&[9.0, 1.0, 5.0, 3.0]).median(METRIC), 4.0);
        assert!(series(&[]).median(METRIC).is_nan());
        assert_eq!(series(&[9.0, 1.0, 5.0]).range(METRIC), (1.0, 9.0));
    }

    #[test]
    fn a_percentile_is_a_sample() {
        let samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|part| percentile(&samples, part)), [1.0, 100.0, 198.0, 200.0]);
        assert_eq!(percentile(&[7.0], 0.99), 7.0);
        assert!(percentile(&[], 0.5).is_nan());
    }

    #[test]
    fn a_round_that_is_slow_for_both_does_not_change_the_ratio() {
        let (own, other) = (series(&[13.0, 1.3, 13.0]), series(&[10.0, 1.0, 10.0]));
        assert!((own.ratio_to(&other, METRIC) - 1.3).abs() < 1e-9);
    }

    #[test]
    fn of_a_cost_half_is_twice_as_good() {
        let [own, other] = [[1.0, 2.0], [2.0, 4.0]].map(|samples| series_of(Metric::LatencyP99, &samples));
        assert_eq!(own.ratio_to(&other, Metric::LatencyP99), 2.0);
        assert_eq!(metrics(&[own, other]), [Metric::LatencyP99]);
    }
}
