//! kubectl, as a person uses it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::control_plane::KUBECONFIG;
use crate::executable;
use crate::netns::{NETNS_DIR, NetNs};
use crate::process::finish;

/// Longer than every time limit that is given to kubectl itself.
const LIMIT: Duration = Duration::from_secs(180);

/// Writes the script `kubectl` into the cluster's folder. It runs kubectl on the control plane's machine.
pub(super) fn write_script(cluster: &Path, netns: &str) -> Result<()> {
    let script = format!(
        "#!/bin/sh\nexec nsenter --net={NETNS_DIR}/{netns} {0}/bin/kubectl --kubeconfig {0}/{KUBECONFIG} \"$@\"\n",
        cluster.display()
    );
    executable::script(&cluster.join("kubectl"), &script)
}

/// Runs kubectl on the control plane's machine.
#[derive(Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    netns: NetNs,
}

impl Kubectl {
    pub(super) fn new(cluster: &Path, netns: NetNs) -> Self {
        Self { program: cluster.join("bin/kubectl"), kubeconfig: cluster.join(KUBECONFIG), netns }
    }

    /// Runs it with arguments split at blanks, and returns its standard output.
    pub fn run(&self, line: &str) -> Result<String> {
        self.run_with(&line.split_whitespace().collect::<Vec<_>>(), "")
    }

    /// Runs it with these arguments and this standard input.
    pub fn run_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        finish(self.command().args(arguments), input, LIMIT)
    }

    /// Runs `kubectl LINE --output json`.
    pub fn json(&self, line: &str) -> Result<Value> {
        let output = self.run(&format!("{line} --output json"))?;
        serde_json::from_str(&output).with_context(|| format!("`kubectl {line}` printed no JSON"))
    }

    /// Creates or changes objects. The text is YAML or JSON.
    pub fn apply(&self, objects: &str) -> Result<()> {
        self.run_with(&["apply", "--filename", "-"], objects).map(drop)
    }

    pub(super) fn netns(&self) -> &NetNs {
        &self.netns
    }

    fn command(&self) -> Command {
        let mut command = self.netns.command(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command
    }
}
