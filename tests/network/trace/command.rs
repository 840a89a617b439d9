//! Runs `flannel-agent trace` on a node and reads its report.

use std::net::IpAddr;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use flannel_tests::Node;
use flannel_tests::agent::agent_binary;
use serde_json::Value;

/// A command line of `flannel-agent trace`.
#[derive(Clone)]
pub(in crate::network) struct TraceCommand(Vec<String>);

impl TraceCommand {
    pub(in crate::network) fn new(source: IpAddr, destination: IpAddr) -> Self {
        Self(vec![format!("--src={source}"), format!("--dst={destination}")])
    }

    pub(in crate::network) fn arg(mut self, arg: impl Into<String>) -> Self {
        self.0.push(arg.into());
        self
    }

    pub(in crate::network) fn udp(self, source: u16, destination: u16) -> Self {
        self.arg("--proto=udp").arg(format!("--sport={source}")).arg(format!("--dport={destination}"))
    }

    pub(in crate::network) fn tcp(self, source: u16, destination: u16) -> Self {
        self.arg("--proto=tcp").arg(format!("--sport={source}")).arg(format!("--dport={destination}"))
    }

    /// Runs the trace and returns its report from JSON.
    pub(in crate::network) fn ask(&self, node: &Node) -> Result<TraceReport> {
        self.ask_of(&mut node.netns().command(agent_binary()?), node)
    }

    /// [`TraceCommand::ask`] with another command that starts the agent.
    pub(in crate::network) fn ask_of(&self, agent: &mut Command, node: &Node) -> Result<TraceReport> {
        let text = self.clone().arg("--json").text_of(agent, node)?;
        Ok(TraceReport(serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))?))
    }

    /// Runs the trace and returns its report as text.
    pub(in crate::network) fn text(&self, node: &Node) -> Result<String> {
        self.text_of(&mut node.netns().command(agent_binary()?), node)
    }

    fn text_of(&self, agent: &mut Command, node: &Node) -> Result<String> {
        let output = self.output(agent, node)?;
        ensure!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs a trace that has to fail, and returns the error.
    pub(in crate::network) fn refusal(&self, node: &Node) -> Result<String> {
        self.refusal_of(&mut node.netns().command(agent_binary()?), node)
    }

    /// [`TraceCommand::refusal`] with another command that starts the agent.
    pub(in crate::network) fn refusal_of(&self, agent: &mut Command, node: &Node) -> Result<String> {
        let output = self.output(agent, node)?;
        ensure!(output.status.code() == Some(1) && output.stdout.is_empty(), "{output:?}");
        Ok(String::from_utf8(output.stderr)?)
    }

    fn output(&self, agent: &mut Command, node: &Node) -> Result<Output> {
        agent.arg("trace").arg("--subnet-file").arg(node.subnet_file()).arg("--bpffs").arg(node.bpffs()?);
        Ok(agent.args(&self.0).output()?)
    }
}

/// The report of a trace.
#[derive(Debug)]
pub(in crate::network) struct TraceReport(pub(in crate::network) Value);

impl TraceReport {
    pub(in crate::network) fn steps(&self) -> &[Value] {
        self.0["steps"].as_array().map_or(&[], Vec::as_slice)
    }

    /// Returns the first step of a kind.
    pub(in crate::network) fn step(&self, kind: &str) -> &Value {
        self.steps()
            .iter()
            .find(|step| step["step"] == kind)
            .unwrap_or_else(|| panic!("no {kind}: {self:#?}"))
    }

    /// Returns the programs that ran and their outcomes.
    pub(in crate::network) fn programs(&self) -> Vec<(&str, &str)> {
        let ran = self.steps().iter().filter(|step| step["step"] == "program");
        ran.filter_map(|step| Some((step["program"].as_str()?, step["outcome"].as_str()?))).collect()
    }

    /// Returns the packet's end, its device, and what carries it there.
    pub(in crate::network) fn end(&self) -> (&str, &str, &str) {
        let text = |field: &str| self.0["end"][field].as_str().unwrap_or_default();
        (text("end"), text("device"), text("by"))
    }
}
