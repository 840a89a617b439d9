//! The ratios that the accelerator must reach.

use anyhow::{Context as _, Result, bail, ensure};

use super::metric::Metric;
use super::series::{Series, find};
use super::variant::Variant;

/// The share by which medians of one dataplane measured twice (kernel-vxlan and agent-netlink) have differed on an idle
/// machine. A smaller loss cannot be measured.
const NOISE: f64 = 0.03;

/// A variant's least ratio to another one.
struct Target {
    metric: Metric,
    variant: Variant,
    reference: Variant,
    least: f64,
}

const fn target(metric: Metric, variant: Variant, reference: Variant, least: f64) -> Target {
    Target { metric, variant, reference, least }
}

/// What `--check` demands. A variant that was not measured, such as the crowd, has no targets.
const TARGETS: [Target; 3] = [
    target(Metric::Flood, Variant::AgentBpf, Variant::KernelVxlan, 1.3),
    target(Metric::Bulk, Variant::AgentBpf, Variant::KernelVxlan, 1.0 - NOISE),
    target(Metric::Flood, Variant::AgentCrowd, Variant::AgentBpf, 1.0 - NOISE),
];

/// Fails with all targets that were missed.
pub(super) fn check(series: &[Series]) -> Result<()> {
    find(series, Variant::AgentBpf).context("--check needs the variant agent-bpf")?;
    let missed = TARGETS.iter().filter_map(|target| target.miss(series).transpose());
    let missed = missed.collect::<Result<Vec<_>>>()?;
    if missed.is_empty() { Ok(()) } else { bail!("targets are missed: {}", missed.join("; ")) }
}

impl Target {
    /// Returns by how much the target is missed, if it is.
    fn miss(&self, series: &[Series]) -> Result<Option<String>> {
        let Self { metric, variant, reference, least } = *self;
        let Some(own) = find(series, variant) else { return Ok(None) };
        let needed =
            || format!("--check of {} needs {} and {}", variant.name(), metric.title(), reference.name());
        let reference = find(series, reference).with_context(needed)?;
        let ratio = own.ratio_to(reference, metric);
        // Nothing was measured.
        ensure!(!own.of(metric).is_empty() && !reference.of(metric).is_empty(), needed());
        // NaN misses the target, too.
        let is_missed = ratio.is_nan() || ratio < least;
        Ok(is_missed.then(|| {
            let (title, name, other) = (metric.title(), variant.name(), reference.variant.name());
            format!("{title}: {name} is {ratio:.3} x {other}, not {least}")
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(variant: Variant, packets: f64, tcp: f64) -> Series {
        let mut series = Series::new(variant);
        series.add(Metric::Flood, packets);
        series.add(Metric::Bulk, tcp);
        series
    }

    fn checked(packets: f64, tcp: f64) -> Result<()> {
        check(&[series(Variant::KernelVxlan, 100.0, 100.0), series(Variant::AgentBpf, packets, tcp)])
    }

    #[test]
    fn targets_are_ratios() {
        assert!(checked(130.0, 98.0).is_ok());
        let error = checked(129.0, 96.0).unwrap_err().to_string();
        assert!(error.contains("agent-bpf is 1.290 x kernel-vxlan, not 1.3"), "{error}");
        assert!(error.contains("agent-bpf is 0.960 x kernel-vxlan, not 0.97"), "{error}");
        assert!(checked(f64::NAN, 100.0).is_err());
        let crowd = |packets| {
            let among = series(Variant::AgentCrowd, packets, 98.0);
            check(&[
                series(Variant::KernelVxlan, 100.0, 100.0),
                series(Variant::AgentBpf, 200.0, 100.0),
                among,
            ])
        };
        assert!(crowd(194.0).is_ok() && crowd(193.0).is_err());
    }

    #[test]
    fn what_was_not_measured_is_no_pass() {
        assert!(check(&[]).is_err());
        assert!(check(&[series(Variant::AgentBpf, 200.0, 100.0)]).is_err());
        let [mut rival, mut own] = [Variant::KernelVxlan, Variant::AgentBpf].map(Series::new);
        rival.add(Metric::Flood, 100.0);
        own.add(Metric::Flood, 200.0);
        let error = check(&[rival, own]).unwrap_err().to_string();
        assert!(error.contains("TCP bulk"), "{error}");
    }
}
