//! The integration suite, and the part of it that runs in the virtual machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{phase, suite};

/// Tests that depend on the kernel, as parts of their names: the programs are loaded, judged on mutated packets, and tried where
/// they use what kernels have differently; and each kind of cluster once. The emulated machine takes ten times as long for
/// everything, and the whole is to take minutes. The kernel does not change what the instructions of a loaded program do.
const SELECTED: &[&str] = &[
    "program::complexity::",
    "program::ecn::",
    "program::entry::",
    "program::events::",
    "program::fuzz::",
    "program::obstructed::",
    "program::translation::shortcut::",
    "program::underlay_xdp::",
    "program::way::",
    "network::flowtable::established_flows_skip_forwarding",
    "network::ipv6::both_families_have_bpf",
    "network::recorded::each_packet_of_a_proven_flow_is_written",
    "network::restart::traffic_survives_a_restart_after_sigterm",
    "network::services::endpoints::in_ipvs_mode",
    "network::services::shortcut::in_ipvs_mode",
    "network::uplink_kinds::of_debians_kernel::",
    "network::xdp::card::",
];

/// Builds the suite and returns its file.
pub(super) fn build() -> Result<PathBuf> {
    phase::measured("build of the integration suite", || {
        let mut command = suite::command();
        command.args(["--no-run", "--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit());
        let output = command.output().context("cannot run cargo")?;
        ensure!(output.status.success(), "the integration suite does not build");
        let messages = String::from_utf8_lossy(&output.stdout).into_owned();
        messages.lines().find_map(executable).context("cargo does not say where the suite is")
    })
}

fn executable(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    (message["target"]["name"] == "suite").then(|| message["executable"].as_str().map(Into::into))?
}

/// Returns the parts of names of the tests to run: those that the user asked for, else the selected ones. Says what
/// that leaves out.
pub(super) fn select(suite: &Path, asked: &[String]) -> Result<Vec<String>> {
    let filters: Vec<_> =
        if asked.is_empty() { SELECTED.iter().map(ToString::to_string).collect() } else { asked.to_vec() };
    let tests = names(suite)?;
    if let Some(stale) = filters.iter().find(|filter| !tests.iter().any(|test| test.contains(*filter))) {
        bail!("the suite has no test with {stale} in its name");
    }
    if asked.is_empty() {
        phase::note(&left_out(&tests, &filters));
    }
    Ok(filters)
}

fn names(suite: &Path) -> Result<Vec<String>> {
    let output = Command::new(suite).args(["--list", "--format", "terse"]).output();
    let output = output.with_context(|| format!("cannot run {}", suite.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

/// Returns how many tests run, and the modules that are left out, in whole or in part.
fn left_out(tests: &[String], filters: &[String]) -> String {
    let runs = |test: &&String| filters.iter().any(|filter| test.contains(filter));
    let (run, left): (Vec<_>, Vec<_>) = tests.iter().partition(runs);
    let mut modules: Vec<_> = left.iter().filter_map(|test| Some(test.rsplit_once("::")?.0)).collect();
    modules.sort_unstable();
    modules.dedup();
    format!(
        "{} of {} tests run in the virtual machine; left out, since they take long there or do not depend on the kernel, all or some of: {}",
        run.len(),
        tests.len(),
        modules.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_of_tests_that_are_left_out_are_named_once() {
        let tests = ["a::one", "a::two", "b::c::three", "d::four"].map(str::to_owned);
        let text = left_out(&tests, &["b::".to_owned()]);
        assert!(text.starts_with("1 of 4 tests") && text.ends_with(": a, d"), "{text}");
    }

    #[test]
    fn only_the_suites_own_message_names_its_file() {
        let suite = r#"{"target":{"name":"suite"},"executable":"/t/suite-1"}"#;
        assert_eq!(executable(suite), Some("/t/suite-1".into()));
        assert_eq!(executable(r#"{"target":{"name":"xtask"},"executable":"/t/xtask"}"#), None);
        assert_eq!(executable(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(executable("no JSON"), None);
    }
}
