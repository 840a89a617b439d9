//! The metrics: their table in the documents is what an agent serves, and nothing names one that does not exist.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use flannel_tests::prometheus::promtool;
use flannel_tests::{TestResult, eventually};

use super::{Bed, SOON, file, text_of};
use crate::endpoint::{Figures, LOCALHOST, get};

/// Files that name metrics.
const NAMERS: [&str; 3] =
    ["deploy/grafana/flannel.json", "deploy/prometheus/alerts.yml", "deploy/prometheus/alerts.test.yml"];

/// What is known of a metric: its type, its labels, and what it means.
type Known = (String, BTreeSet<String>, String);

/// Returns the metrics in an OpenMetrics text, by the name of their samples.
fn served(text: &str) -> Result<BTreeMap<String, Known>> {
    let (mut metrics, mut help, mut current) = (BTreeMap::new(), String::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').context("a help text")?.1.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').context("a type")?;
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            current = format!("{name}{suffix}");
            let before = metrics
                .insert(current.clone(), (kind.to_owned(), BTreeSet::new(), std::mem::take(&mut help)));
            ensure!(before.is_none(), "{current} is there twice");
        } else if !line.starts_with('#') {
            ensure!(line.starts_with(&current), "{line} is no sample of {current}");
            let labels =
                line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map(|(labels, _)| labels);
            let labels = labels.unwrap_or_default().split("\",").filter_map(|label| label.split_once('='));
            let names = labels.map(|(name, _)| name.to_owned()).filter(|name| name != "le");
            metrics.get_mut(&current).context("a sample without a type")?.1.extend(names);
        }
    }
    Ok(metrics)
}

/// Returns the metrics in the tables of the documents.
fn documented() -> Result<BTreeMap<String, Known>> {
    let text = text_of("docs/metrics.md")?;
    let rows = text.lines().filter(|line| line.starts_with("| `flannel_"));
    let row = |line: &str| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, help] = cells[..] else { anyhow::bail!("not four cells: {line}") };
        let labels = labels.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        Ok((name.trim_matches('`').to_owned(), (kind.to_owned(), labels, help.to_owned())))
    };
    let table: Vec<_> = rows.map(row).collect::<Result<_>>()?;
    let metrics: BTreeMap<_, _> = table.iter().cloned().collect();
    ensure!(metrics.len() == table.len(), "docs/metrics.md has a metric twice");
    Ok(metrics)
}

/// Returns the names of metrics in a text, as those of their samples.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    words.filter(|word| word.starts_with("flannel_")).collect()
}

/// Returns the row of the table for a metric.
fn row(name: &str, (kind, labels, help): &Known) -> String {
    let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
    format!("| `{name}` | {kind} | {labels} | {help} |")
}

/// Returns whether this is the name of a metric, or of a part of a histogram.
fn is_served(metrics: &BTreeMap<String, Known>, name: &str) -> bool {
    let of_histogram = ["_bucket", "_sum", "_count"].into_iter().filter_map(|part| name.strip_suffix(part));
    [name].into_iter().chain(of_histogram).any(|name| metrics.contains_key(name))
}

#[test]
fn the_table_in_the_documents_is_what_an_agent_serves() -> TestResult {
    let bed = Bed::start()?;
    let node = &bed.nodes()[0];
    let documented = documented()?;
    let mut metrics = BTreeMap::new();
    eventually("the agent serves all metrics, and no others", SOON, || {
        bed.stir()?;
        metrics = served(Figures::of(node)?.text())?;
        let missing: Vec<_> = documented.keys().filter(|name| !metrics.contains_key(*name)).collect();
        ensure!(missing.is_empty(), "{missing:?} are in docs/metrics.md, and not served");
        let wrong = metrics.iter().filter(|(name, known)| documented.get(*name) != Some(known));
        let wrong: Vec<_> = wrong.map(|(name, known)| row(name, known)).collect();
        ensure!(wrong.is_empty(), "docs/metrics.md does not have these rows:\n{}", wrong.join("\n"));
        Ok(())
    })?;
    for path in NAMERS {
        let text = text_of(path)?;
        let names = named(&text);
        let unknown: Vec<_> = names.iter().filter(|name| !is_served(&metrics, name)).collect();
        assert!(names.len() > 5 && unknown.is_empty(), "{path} names {unknown:?}, which no agent serves");
    }
    Ok(())
}

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics() -> TestResult {
    let bed = Bed::start()?;
    bed.stir()?;
    let (status, text) = get(&bed.nodes()[0], LOCALHOST, "/metrics")?;
    assert!(status == 200 && !text.contains("# EOF"), "it is not Prometheus's own format: {status} {text}");
    let check = promtool(&file(""), &["check", "metrics"], &text)?;
    assert!(check.status.success() && check.stdout.is_empty() && check.stderr.is_empty(), "{check:?} {text}");
    // It does find what is wrong.
    let check = promtool(&file(""), &["check", "metrics"], "# TYPE wrong counter\nwrong 1\n")?;
    assert!(!check.status.success(), "{check:?}");
    Ok(())
}
