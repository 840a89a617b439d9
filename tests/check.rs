//! `flannel-agent check`: what it finds on nodes that work and on nodes that do not.

mod node;
mod peers;

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flannel_tests::agent::subcommand;
use flannel_tests::wait::{patiently, scaled};
use flannel_tests::{Node, Topology};
use serde_json::Value;

use crate::overlay::Overlay;

/// Time limit for the agent to see and write down what a test does.
const SOON: Duration = Duration::from_secs(10);
/// No check takes longer.
const LONGEST: Duration = Duration::from_secs(12);

/// Returns the folder for CNI configurations of a node, with flannel's.
fn cni_folder(node: &Node) -> Result<PathBuf> {
    let folder = node.dir().join("net.d");
    if !folder.exists() {
        fs::create_dir(&folder)?;
        fs::write(
            folder.join("10-flannel.conflist"),
            r#"{"name": "cbr0", "plugins": [{"type": "flannel"}]}"#,
        )?;
    }
    Ok(folder)
}

/// Runs the check on a node, and fails if it takes too long.
fn run(node: &Node, words: &[&str]) -> Result<Output> {
    let mut command = subcommand(node, "check")?;
    command.args(words).arg("--cni-conf-dir").arg(cni_folder(node)?);
    let start = Instant::now();
    let output = command.output()?;
    ensure!(start.elapsed() < scaled(LONGEST), "it takes {:?}", start.elapsed());
    Ok(output)
}

/// Returns the report, if the exit status is this one.
fn report(node: &Node, exit: i32, words: &[&str]) -> Result<Value> {
    let output = run(node, &[&["--json"], words].concat())?;
    let report: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    ensure!(output.status.code() == Some(exit), "{:?}: {report:#}", output.status);
    ensure!(output.stderr.is_empty(), "{output:?}");
    Ok(report)
}

/// Returns the finding of a check with this level and these words.
fn finding<'a>(report: &'a Value, check: &str, level: &str, words: &str) -> Result<&'a Value> {
    let findings = report["findings"].as_array().context("no findings")?;
    let is_it = |finding: &&Value| {
        let text = |field: &str| finding[field].as_str().unwrap_or_default();
        text("check") == check && text("level") == level && text("found").contains(words)
    };
    findings.iter().find(is_it).with_context(|| format!("no {level} of {check} with {words:?}: {report:#}"))
}

/// Starts two nodes with a pod each, whose agents have written down what they know.
fn two_nodes(topology: Topology, flag: &str) -> Result<Overlay> {
    let overlay = Overlay::start(topology, &[flag; 2], 1)?;
    wait_well(&overlay)?;
    Ok(overlay)
}

/// Waits until the checks of all nodes find nothing that is worse than a note, and know all other nodes: agents write down a moment later
/// whom they know.
fn wait_well(overlay: &Overlay) -> Result<()> {
    let others = overlay.nodes().len() - 1;
    for node in overlay.nodes() {
        patiently("all is well", SOON, || {
            let found = report(node, 0, &[])?;
            finding(&found, "peers", "ok", &format!("{others} of {others} answer")).map(drop)
        })?;
    }
    Ok(())
}
