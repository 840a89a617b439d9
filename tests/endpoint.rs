//! Requests to an agent's health endpoint.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result, ensure};
use flannel_tests::{AgentBuilder, Node};

/// Port of the endpoint in these tests.
pub(crate) const PORT: u16 = 300;
pub(crate) const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Gives the agent an endpoint.
pub(crate) fn with_endpoint(agent: AgentBuilder) -> AgentBuilder {
    agent.arg(format!("-healthz-port={PORT}"))
}

/// What Prometheus accepts.
const OPEN_METRICS: &str = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";

/// Requests a path from the node's endpoint, and returns status and text.
pub(crate) fn get(node: &Node, ip: IpAddr, path: &str) -> Result<(u16, String)> {
    get_as(node, ip, path, "*/*")
}

/// [`get`] for a client that accepts these content types.
fn get_as(node: &Node, ip: IpAddr, path: &str, accept: &str) -> Result<(u16, String)> {
    let mut stream = node.netns().tcp_connect((ip, PORT).into())?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nAccept: {accept}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split_whitespace().nth(1).context("no status")?.parse()?;
    let (_, text) = answer.split_once("\r\n\r\n").context("no end of the headers")?;
    Ok((status, text.to_owned()))
}

/// The agent's metrics, as its endpoint prints them.
pub(crate) struct Figures(String);

impl Figures {
    /// Reads them.
    pub(crate) fn of(node: &Node) -> Result<Self> {
        let (status, text) = get_as(node, LOCALHOST, "/metrics", OPEN_METRICS)?;
        ensure!(status == 200 && text.ends_with("# EOF\n"), "{status}: {text}");
        Ok(Self(text))
    }

    /// Returns the metric with this name and these labels, in Prometheus's notation; 0 if it is absent.
    pub(crate) fn get(&self, name: &str) -> Result<f64> {
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned);
        self.0
            .lines()
            .find_map(value)
            .map_or(Ok(0.0), |value| value.trim().parse().with_context(|| format!("{name} is {value:?}")))
    }

    /// Returns the sum of the metric over all its labels.
    pub(crate) fn sum(&self, name: &str) -> Result<f64> {
        let samples = self
            .0
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        let value = |line: &str| line.rsplit(' ').next().unwrap_or_default().parse::<f64>();
        samples.map(|line| value(line).with_context(|| format!("{line:?} has no number"))).sum()
    }

    /// Returns the whole text, for error messages.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}
