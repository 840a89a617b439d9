//! The limits that the control plane must keep.

use anyhow::{Context as _, Result, bail};

use super::sample::{Sample, Scale, millis};
use super::store::Store;

/// Number of leases, name and value of a figure, and its limit.
type Target = (u32, &'static str, fn(&Sample) -> f64, f64);

const ETCD: &[Target] = &[
    (0, "ms until subnet.env exists", |sample| millis(sample.subnet_file), 100.0),
    (10_000, "ms until all leases are written", |sample| millis(sample.all_leases), 1000.0),
    (10_000, "ms of CPU", |sample| millis(sample.cpu), 700.0),
    (10_000, "bytes of memory", |sample| sample.memory as f64, 30e6),
    (10_000, "ms for a new lease", |sample| millis(sample.changes.join), 3.5),
    (10_000, "ms for a lease that is back", |sample| millis(sample.changes.back), 15.0),
];

const KUBERNETES: &[Target] = &[
    (5000, "ms until all leases are written", |sample| millis(sample.all_leases), 2000.0),
    (5000, "bytes of memory", |sample| sample.memory as f64, 40e6),
    (5000, "ms from an event to the dataplane", |sample| sample.event(|event| event.median), 5.0),
];

/// Fails with all targets that were missed.
pub(super) fn check(store: Store, scales: &[Scale]) -> Result<()> {
    let targets = match store {
        Store::Etcd => ETCD,
        Store::Kubernetes => KUBERNETES,
    };
    let mut missed = Vec::new();
    for &(leases, what, value, limit) in targets {
        let scale = scales.iter().find(|scale| scale.leases == leases);
        let found = scale.with_context(|| format!("--check needs {leases} leases"))?.median(value);
        // NaN misses the target, too.
        if found.is_nan() || found >= limit {
            missed.push(format!("{leases} leases: {found:.1} {what}, not below {limit}"));
        }
    }
    if missed.is_empty() { Ok(()) } else { bail!("the agent misses its targets: {}", missed.join("; ")) }
}
