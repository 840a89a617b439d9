//! Reads the counters of a node's BPF programs with bpftool, as a person does.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
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

/// Returns the VNI of the only network whose programs are pinned below this bpffs, or the number that stands for it.
pub fn only_network(bpffs: &Path) -> Result<u32> {
    let folder = bpffs.join("flannel");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let names = entries.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
    let networks: Vec<_> = names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect();
    match networks[..] {
        [network] => Ok(network),
        _ => bail!("{} has the pins of {} networks", folder.display(), networks.len()),
    }
}

/// Reads the counters below this bpffs for the overlay with this VNI, the most frequent outcome first, and none that are 0.
pub fn read(bpffs: &Path, vni: u32) -> Result<Vec<Metric>> {
    let map = bpffs.join(format!("flannel/{vni}/METRICS"));
    let mut bpftool = Command::new("bpftool");
    let output = bpftool.args(["-j", "map", "dump", "pinned"]).arg(&map).output().context("run bpftool")?;
    ensure!(output.status.success(), "bpftool cannot read {}: {output:?}", map.display());
    let dump: Value = serde_json::from_slice(&output.stdout).context("bpftool's JSON")?;
    let hooks = dump[0]["formatted"]["values"][0]["value"].as_object().context("no names of hooks")?;
    let mut metrics = Vec::new();
    for (hook, outcomes) in hooks {
        for outcome in outcomes.as_object().context("no names of outcomes")?.keys() {
            let sum = |field| per_cpu(&dump).filter_map(|cpu| cpu[hook][outcome][field].as_u64()).sum();
            let (hook, outcome) = (hook.clone(), outcome.clone());
            metrics.push(Metric { packets: sum("packets"), bytes: sum("bytes"), hook, outcome });
        }
    }
    metrics.retain(|metric| metric.packets != 0);
    metrics.sort_by_key(|metric| std::cmp::Reverse(metric.packets));
    Ok(metrics)
}

fn per_cpu(dump: &Value) -> impl Iterator<Item = &Value> {
    dump[0]["formatted"]["values"].as_array().into_iter().flatten().map(|cpu| &cpu["value"])
}
