//! The ratios that the accelerator must reach.

use anyhow::{Context as _, Result, bail};

use super::metric::Metric;
use super::series::{Series, find};
use super::variant::{CROWD, RIVAL, Variant};

/// The share by which medians of one dataplane measured twice (kernel-vxlan and agent-netlink) have differed on an idle
/// machine. A smaller loss cannot be measured.
const NOISE: f64 = 0.03;

/// The least ratio to the kernel's vxlan, for the metrics that have one.
const TARGETS: [(Metric, f64); 2] = [(Metric::Flood, 1.3), (Metric::Bulk, 1.0 - NOISE)];

/// Fails with all targets that were missed.
pub(super) fn check(series: &[Series]) -> Result<()> {
    let own = find(series, Variant::AgentBpf).context("--check needs the variant agent-bpf")?;
    let rival = find(series, RIVAL).context("--check needs the variant kernel-vxlan")?;
    let miss = |(metric, least): (Metric, f64)| {
        let ratio = own.ratio_to(rival, metric);
        // NaN misses the target, too.
        (ratio.is_nan() || ratio < least)
            .then(|| format!("{}: {ratio:.3} x {}, not {least}", metric.title(), RIVAL.name()))
    };
    let missed: Vec<_> = TARGETS.into_iter().filter_map(miss).chain(slowed(series, own)).collect();
    if missed.is_empty() { Ok(()) } else { bail!("agent-bpf misses its targets: {}", missed.join("; ")) }
}

/// Returns the missed target if leases of many nodes slow packets down, where that was measured.
fn slowed(series: &[Series], own: &Series) -> Option<String> {
    let ratio = find(series, Variant::AgentCrowd)?.ratio_to(own, Metric::Flood);
    (ratio.is_nan() || ratio < 1.0 - NOISE)
        .then(|| format!("{}: {ratio:.3} x itself among {CROWD} leases", Metric::Flood.title()))
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
        check(&[series(RIVAL, 100.0, 100.0), series(Variant::AgentBpf, packets, tcp)])
    }

    #[test]
    fn targets_are_ratios_to_the_kernels_vxlan() {
        assert!(checked(130.0, 98.0).is_ok());
        let error = checked(129.0, 96.0).unwrap_err().to_string();
        assert!(error.contains("1.290 x kernel-vxlan, not 1.3"), "{error}");
        assert!(error.contains("0.960 x kernel-vxlan, not 0.97"), "{error}");
        assert!(checked(f64::NAN, 100.0).is_err());
        let crowd = |packets| {
            let among = series(Variant::AgentCrowd, packets, 98.0);
            check(&[series(RIVAL, 100.0, 100.0), series(Variant::AgentBpf, 200.0, 100.0), among])
        };
        assert!(crowd(194.0).is_ok() && crowd(193.0).is_err());
        assert!(check(&[series(Variant::AgentBpf, 1.0, 1.0)]).is_err());
    }
}
