//! A real Prometheus reads the agents, and each query of the dashboard has data there.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::prometheus::{JOB, Prometheus};
use flannel_tests::{TestResult, eventually};
use serde_json::Value;

use super::{Bed, SOON, file, text_of};
use crate::endpoint::PORT;

/// What the dashboard's variables are filled with: all agents of the job, and a window as Grafana chooses it for metrics that
/// are read every 15 s.
const VARIABLES: [(&str, &str); 3] = [("$job", JOB), ("$instance", ".+"), ("$__rate_interval", "1m")];

/// An agent has fewer samples than this, whatever happens.
const SAMPLES: f64 = 1000.0;

/// A query of the dashboard.
struct Query {
    panel: String,
    expression: String,
}

/// Returns all queries of all panels, without variables.
fn queries() -> Result<Vec<Query>> {
    let dashboard: Value = serde_json::from_str(&text_of("deploy/grafana/flannel.json")?)?;
    let panels = dashboard["panels"].as_array().context("panels")?;
    let mut queries = Vec::new();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().context("a title")?;
        let targets = panel["targets"].as_array().filter(|targets| !targets.is_empty());
        for target in targets.with_context(|| format!("the panel {title} has no query"))? {
            let expression = target["expr"].as_str().with_context(|| format!("{title} has no expression"))?;
            let filled = |text: String, (name, value): (&str, &str)| text.replace(name, value);
            let expression = VARIABLES.into_iter().fold(expression.to_owned(), filled);
            ensure!(!expression.contains('$'), "{title} has an unknown variable: {expression}");
            queries.push(Query { panel: title.to_owned(), expression });
        }
    }
    ensure!(queries.len() > 20, "the dashboard has {} queries only", queries.len());
    Ok(queries)
}

/// Returns the numbers of a result. Others are no data: Grafana shows nothing for them.
fn numbers(samples: &[Value]) -> Vec<f64> {
    let number = |sample: &Value| sample["value"][1].as_str()?.parse::<f64>().ok();
    samples.iter().filter_map(number).filter(|number| number.is_finite()).collect()
}

/// Fails unless the agents have been read without errors, as OpenMetrics.
fn ensure_read(prometheus: &Prometheus, agents: usize) -> Result<()> {
    let up = numbers(&prometheus.query(&format!("up{{job=\"{JOB}\"}}"))?);
    ensure!(up == vec![1.0; agents], "up is {up:?}");
    let mut targets = prometheus.get("targets")?;
    let targets = targets["activeTargets"].take();
    for target in targets.as_array().context("targets")? {
        ensure!(target["health"] == "up" && target["lastError"] == "", "{target}");
    }
    // The parser of Prometheus's own format does not read units.
    let metadata = prometheus.get("metadata?metric=flannel_lease_left_seconds")?;
    let read = &metadata["flannel_lease_left_seconds"][0];
    ensure!(read["type"] == "gauge" && read["unit"] == "seconds", "not read as OpenMetrics: {metadata}");
    Ok(())
}

/// Fails unless all rules are evaluated without errors, and have a text for people. Returns the alerts that fire.
fn firing(prometheus: &Prometheus) -> Result<BTreeSet<String>> {
    let answer = prometheus.get("rules")?;
    let groups = answer["groups"].as_array().context("groups of rules")?;
    let rules: Vec<_> = groups.iter().filter_map(|group| group["rules"].as_array()).flatten().collect();
    ensure!(rules.len() > 10, "{} rules", rules.len());
    for rule in &rules {
        let has = |part: &str| rule["annotations"][part].as_str().is_some_and(|text| text.len() > 20);
        ensure!(rule["health"] == "ok" && rule["lastError"].is_null(), "{rule}");
        ensure!(has("summary") && has("action") && rule["labels"]["severity"].is_string(), "{rule}");
    }
    let firing = rules.into_iter().filter(|rule| rule["state"] == "firing");
    Ok(firing.filter_map(|rule| rule["name"].as_str()).map(str::to_owned).collect())
}

#[test]
fn prometheus_reads_the_agents_and_each_panel_of_the_dashboard_has_data() -> TestResult {
    let queries = queries()?;
    let bed = Bed::start()?;
    let agents: Vec<_> = bed.nodes().iter().map(|node| (node.ip(), PORT).into()).collect();
    let prometheus = Prometheus::start(&bed.nodes()[0], &agents, &file("deploy/prometheus/alerts.yml"))?;
    eventually("Prometheus has read the agents", SOON, || ensure_read(&prometheus, agents.len()))?;
    eventually("each query has data", SOON, || {
        bed.stir()?;
        for Query { panel, expression } in &queries {
            let found = prometheus.query(expression)?;
            ensure!(!numbers(&found).is_empty(), "{panel} has no data: {expression}: {found:?}");
        }
        Ok(())
    })?;
    // What has happened is what it shows.
    for happened in [
        "flannel_packets_total{outcome=\"forged-sender\"}",
        "flannel_packet_bytes_total{verdict=\"carried\"}",
        "flannel_flow_cache_packets_total{result=\"hit\"}",
        "flannel_flow_cache_packets_total{result=\"proof\"}",
        "flannel_repairs_total{object=\"route\"}",
        "flannel_datastore_request_duration_seconds_count{result=\"answered\"}",
        "flannel_program_runs_total{program=\"pod_egress\"}",
        "flannel_ready",
        "flannel_peers{family=\"ipv4\"}",
    ] {
        let found = numbers(&prometheus.query(&format!("sum({happened})"))?);
        assert!(found.iter().sum::<f64>() > 0.0, "{happened} is {found:?}");
    }
    ensure_read(&prometheus, agents.len())?;
    let most =
        |metric: &str| Ok::<_, anyhow::Error>(numbers(&prometheus.query(&format!("max({metric})"))?)[0]);
    let (samples, seconds) = (most("scrape_samples_scraped")?, most("scrape_duration_seconds")?);
    println!("{samples} samples of an agent, read in {seconds} s");
    assert!(samples < SAMPLES, "{samples} samples of one agent: does a label have too many values?");
    let firing = firing(&prometheus)?;
    assert!(firing.is_empty(), "alerts of healthy nodes: {firing:?}");
    assert!(!prometheus.log().contains("scrape"), "{}", prometheus.log());
    Ok(())
}
