//! Runs the real Prometheus on a node, and promtool.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::cluster::Node;
use crate::http;
use crate::netns::NetNs;
use crate::owner::MARK;
use crate::process::{Daemon, Finished, LIMIT, complete};
use crate::require::require_commands;
use crate::wait::patiently;
use crate::workdir::Workdir;

/// The job of the agents, as the project's rules of alerts name it.
pub const JOB: &str = "flannel";
/// Interval between two readings of an agent's metrics.
pub const INTERVAL: Duration = Duration::from_secs(1);

const START_LIMIT: Duration = Duration::from_secs(30);
const FORM: &str = "application/x-www-form-urlencoded";
/// Its own address, in the node's namespace.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

/// A running Prometheus. Dropping it kills it; its data goes with the cluster.
#[derive(Debug)]
pub struct Prometheus {
    daemon: Daemon,
    netns: Arc<NetNs>,
    _workdir: Arc<Workdir>,
}

impl Prometheus {
    /// Starts it on a node. It reads the metrics at these addresses every [`INTERVAL`], and evaluates these rules.
    pub fn start(node: &Node, targets: &[SocketAddr], rules: &Path) -> Result<Self> {
        require_commands(&["prometheus"])?;
        let dir = node.dir().join("prometheus");
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let file = dir.join("prometheus.yml");
        // JSON is YAML.
        fs::write(&file, config(targets, rules).to_string())
            .with_context(|| format!("write {}", file.display()))?;
        let mut command = node.netns().command("prometheus");
        command.env(MARK, node.netns().name());
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
        command.arg(format!("--web.listen-address={ADDRESS}")).arg("--log.level=warn");
        let daemon = Daemon::start("prometheus", command, &dir.join("prometheus.log"))?;
        let mut prometheus =
            Self { daemon, netns: Arc::clone(node.netns()), _workdir: Arc::clone(&node.workdir) };
        prometheus.wait_ready()?;
        Ok(prometheus)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let mut ended = Ok(());
        let ready = patiently("prometheus is ready", START_LIMIT, || {
            ended = self.daemon.ensure_running();
            if ended.is_err() { Ok(()) } else { self.exchange("GET", "/-/ready", "").map(drop) }
        });
        ended?;
        ready.with_context(|| self.daemon.tail())
    }

    /// Evaluates an expression now, and returns the samples: objects with `metric` and `value`.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>> {
        self.evaluate("query", expression, "")
    }

    /// Evaluates an expression for each `step` between two times, in seconds since 1970. Returns objects with `metric` and `values`.
    pub fn query_range(&self, expression: &str, start: f64, end: f64, step: Duration) -> Result<Vec<Value>> {
        let times = format!("&start={start:.3}&end={end:.3}&step={}", step.as_secs_f64());
        self.evaluate("query_range", expression, &times)
    }

    fn evaluate(&self, path: &str, expression: &str, times: &str) -> Result<Vec<Value>> {
        let body = format!("query={}{times}", encode(expression));
        let answer = self.exchange("POST", &format!("/api/v1/{path}"), &body);
        let mut data = data(&answer.with_context(|| format!("the query {expression}"))?)?;
        match data["result"].take() {
            Value::Array(samples) => Ok(samples),
            other => bail!("{expression} has the result {other}"),
        }
    }

    /// Returns the answer of its API to a path such as `targets`.
    pub fn get(&self, path: &str) -> Result<Value> {
        data(&self.exchange("GET", &format!("/api/v1/{path}"), "")?)
    }

    /// Returns its log, of warnings and errors.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    fn exchange(&self, method: &str, path: &str, body: &str) -> Result<String> {
        http::request(self.netns.tcp_connect(ADDRESS)?, method, path, FORM, body.as_bytes())
    }
}

/// Runs promtool in a folder, and returns how it has ended.
pub fn promtool(folder: &Path, arguments: &[&str], input: &str) -> Result<Finished> {
    require_commands(&["promtool"])?;
    complete(Command::new("promtool").args(arguments).current_dir(folder), input, LIMIT)
}

fn config(targets: &[SocketAddr], rules: &Path) -> Value {
    let interval = format!("{}s", INTERVAL.as_secs());
    let targets: Vec<_> = targets.iter().map(ToString::to_string).collect();
    json!({
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [rules],
        "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": targets}]}],
    })
}

/// Returns what an answer of the API has found.
fn data(answer: &str) -> Result<Value> {
    let mut answer: Value = serde_json::from_str(answer).context("the answer of Prometheus's API")?;
    if answer["status"] != "success" {
        bail!("Prometheus's API says: {answer}");
    }
    Ok(answer["data"].take())
}

/// Returns the text as a form has it.
fn encode(text: &str) -> String {
    let encoded = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    encoded.collect()
}
