//! Reads the counters of a node's BPF programs with bpftool, as a person does.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// Counters of one outcome at one hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    /// The hook, as `flannel-common` names it: `OverlayEgress`.
    pub hook: String,
    /// The outcome, as `flannel-common` names it: `Encapsulated`.
    pub outcome: String,
    /// Runs, over all CPUs.
    pub packets: u64,
    /// Bytes, over all CPUs.
    pub bytes: u64,
}

/// Reads the counters below this bpffs for the overlay with this VNI, the most frequent outcome first.
pub fn read(bpffs: &Path, vni: u32) -> Result<Vec<Metric>> {
    let map = bpffs.join(format!("flannel/{vni}/METRICS"));
    let mut bpftool = Command::new("bpftool");
    let output = bpftool.args(["-j", "map", "dump", "pinned"]).arg(&map).output().context("run bpftool")?;
    ensure!(output.status.success(), "bpftool cannot read {}: {output:?}", map.display());
    let entries: Vec<Value> = serde_json::from_slice(&output.stdout).context("bpftool's JSON")?;
    let mut metrics = entries.iter().map(metric).collect::<Result<Vec<_>>>()?;
    metrics.sort_by_key(|metric| std::cmp::Reverse(metric.packets));
    Ok(metrics)
}

fn metric(entry: &Value) -> Result<Metric> {
    let entry = &entry["formatted"];
    let name = |field| entry["key"][field].as_str().map(str::to_owned).context("a key is not a name");
    let per_cpu = entry["values"].as_array().context("the values are not a list")?;
    let sum = |field| per_cpu.iter().filter_map(|cpu| cpu["value"][field].as_u64()).sum();
    Ok(Metric {
        hook: name("hook")?,
        outcome: name("outcome")?,
        packets: sum("packets"),
        bytes: sum("bytes"),
    })
}
