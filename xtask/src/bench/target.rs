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
const TARGETS: [Target; 13] = [
    target(Metric::Flood, Variant::AgentBpf, Variant::KernelVxlan, 1.8),
    target(Metric::Bulk, Variant::AgentBpf, Variant::KernelVxlan, 1.0),
    target(Metric::RoundTrips, Variant::AgentBpf, Variant::KernelVxlan, 1.6),
    target(Metric::FloodCpu, Variant::AgentBpf, Variant::Limit, 0.85),
    target(Metric::Bulk, Variant::AgentBpf, Variant::Limit, 0.85),
    target(Metric::RoundTrips, Variant::AgentBpf, Variant::Limit, 0.85),
    // Without the shortcut, it is slower in nothing. TCP is not steady: 0.92 to 1.05 in three runs.
    target(Metric::Flood, Variant::AgentNoCache, Variant::KernelVxlan, 1.0 - NOISE),
    target(Metric::Bulk, Variant::AgentNoCache, Variant::KernelVxlan, 0.9),
    target(Metric::RoundTrips, Variant::AgentNoCache, Variant::KernelVxlan, 1.0 - NOISE),
    // Services are within a twentieth of other flows.
    target(Metric::Flood, Variant::AgentService, Variant::AgentBpf, 0.95 - NOISE),
    target(Metric::Bulk, Variant::AgentService, Variant::AgentBpf, 0.95 - NOISE),
    target(Metric::RoundTrips, Variant::AgentService, Variant::AgentBpf, 0.95 - NOISE),
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

    /// Makes a variant with these packets, bits and round trips per second.
    fn series(variant: Variant, [packets, bits, trips]: [f64; 3]) -> Series {
        let mut series = Series::new(variant);
        for (metric, value) in [
            (Metric::Flood, packets),
            (Metric::FloodCpu, 1.0 / packets),
            (Metric::Bulk, bits),
            (Metric::RoundTrips, trips),
        ] {
            series.add(metric, value);
        }
        series
    }

    /// Checks the agent, and one more variant, beside a limit of twice what the kernel's device carries.
    fn checked(agent: [f64; 3], other: Option<(Variant, [f64; 3])>) -> Result<()> {
        let mut all = vec![
            series(Variant::KernelVxlan, [100.0; 3]),
            series(Variant::Limit, [200.0; 3]),
            series(Variant::AgentBpf, agent),
        ];
        all.extend(other.map(|(variant, values)| series(variant, values)));
        check(&all)
    }

    #[test]
    fn targets_are_ratios() {
        assert!(checked([180.0, 170.0, 170.0], None).is_ok());
        let error = checked([169.0, 96.0, 170.0], None).unwrap_err().to_string();
        for missed in [
            "packets/s received: agent-bpf is 1.690 x kernel-vxlan, not 1.8",
            "agent-bpf is 0.960 x kernel-vxlan, not 1",
            "CPU s per million packets: agent-bpf is 0.845 x limit, not 0.85",
        ] {
            assert!(error.contains(missed), "{error}");
        }
        assert!(checked([f64::NAN, 170.0, 170.0], None).is_err());
    }

    #[test]
    fn other_variants_are_compared_with_what_they_should_equal() {
        let agent = [200.0; 3];
        for (variant, good, bad) in [
            (Variant::AgentCrowd, [194.0, 1.0, 1.0], [193.0, 200.0, 200.0]),
            (Variant::AgentNoCache, [97.0, 90.0, 97.0], [97.0, 89.0, 97.0]),
            (Variant::AgentService, [184.0; 3], [184.0, 184.0, 183.0]),
        ] {
            assert!(checked(agent, Some((variant, good))).is_ok(), "{}", variant.name());
            assert!(checked(agent, Some((variant, bad))).is_err(), "{}", variant.name());
        }
    }

    #[test]
    fn what_was_not_measured_is_no_pass() {
        assert!(check(&[]).is_err());
        assert!(check(&[series(Variant::AgentBpf, [200.0; 3])]).is_err());
        let pair = [Variant::KernelVxlan, Variant::AgentBpf].map(|variant| series(variant, [200.0; 3]));
        assert!(check(&pair).unwrap_err().to_string().contains("limit"));
        let [mut rival, mut own] = [Variant::KernelVxlan, Variant::AgentBpf].map(Series::new);
        rival.add(Metric::Flood, 100.0);
        own.add(Metric::Flood, 200.0);
        let error = check(&[rival, own]).unwrap_err().to_string();
        assert!(error.contains("TCP bulk"), "{error}");
    }
}
