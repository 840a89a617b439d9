//! The rules of alerts, tested by promtool.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use flannel_tests::TestResult;
use flannel_tests::prometheus::promtool;
use tempfile::TempDir;

use super::{file, text_of};

const FOLDER: &str = "deploy/prometheus";
const RULES: &str = "deploy/prometheus/alerts.yml";
const TESTS: &str = "deploy/prometheus/alerts.test.yml";

/// Returns the names of all alerts.
fn alerts(rules: &str) -> Vec<&str> {
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect()
}

/// Returns a folder with these rules and tests.
fn folder_of(rules: &str, tests: &str) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("alerts.yml"), rules)?;
    fs::write(folder.path().join("alerts.test.yml"), tests)?;
    Ok(folder)
}

/// Runs promtool there. Fails as it does.
fn run(folder: &Path, arguments: &[&str]) -> Result<()> {
    let done = promtool(folder, arguments, "")?;
    ensure!(done.status.success(), "promtool {arguments:?}: {} {}", done.stdout, done.stderr);
    Ok(())
}

#[test]
fn each_alert_fires_when_it_should_and_not_when_all_is_well() -> TestResult {
    let (rules, tests) = (text_of(RULES)?, text_of(TESTS)?);
    run(&file(FOLDER), &["check", "rules", "alerts.yml"])?;
    run(&file(FOLDER), &["test", "rules", "alerts.test.yml"])?;
    let alerts = alerts(&rules);
    assert!(alerts.len() > 10, "{RULES} has {} alerts", alerts.len());
    for alert in alerts {
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "{TESTS} never has {alert} fire");
    }
    Ok(())
}

/// Returns rules of these names that all have this expression.
fn rules_of(alerts: &[&str], expression: &str) -> String {
    let rules = alerts.iter().map(|alert| format!("      - {{alert: {alert}, expr: {expression}}}\n"));
    format!("groups:\n  - name: flannel\n    rules:\n{}", rules.collect::<String>())
}

#[test]
fn the_tests_find_each_rule_that_never_fires_or_always_does() -> TestResult {
    let (rules, tests) = (text_of(RULES)?, text_of(TESTS)?);
    let alerts = alerts(&rules);
    for expression in ["vector(1) > 2", "vector(1)"] {
        let folder = folder_of(&rules_of(&alerts, expression), &tests)?;
        run(folder.path(), &["check", "rules", "alerts.yml"])?;
        let done = promtool(folder.path(), &["test", "rules", "alerts.test.yml"], "")?;
        assert!(!done.status.success(), "no test fails if all rules are {expression}");
        let said = done.stdout + &done.stderr;
        for alert in &alerts {
            assert!(said.contains(&format!("alertname=\"{alert}\"")), "{alert} is {expression}: {said}");
        }
    }
    Ok(())
}
