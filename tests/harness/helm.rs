//! Renders Helm charts by a small program on the libraries that Helm itself uses. Helm is in no package of Debian.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::process::{LIMIT, finish};
use crate::require::require_commands;

const GO: &str = "/usr/lib/go-1.19/bin/go";
const LIBRARIES: &str = "/usr/share/gocode";
/// Time limit. Compiling the libraries takes 20 s of CPU, once.
const BUILD_LIMIT: Duration = Duration::from_secs(300);

/// Renders a chart with these values laid over its own, as `helm template --namespace NAMESPACE --values VALUES CHART`
/// does. `folder` keeps what is compiled.
pub fn render(chart: &Path, namespace: &str, values: &Value, folder: &Path) -> Result<String> {
    let mut command = Command::new(renderer(folder)?);
    finish(command.arg(chart).arg(namespace), &values.to_string(), LIMIT)
        .with_context(|| format!("render {} with {values}", chart.display()))
}

/// Returns the program, which is compiled once in a process.
fn renderer(folder: &Path) -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build(folder).map_err(|error| format!("{error:#}")));
    built.clone().map_err(anyhow::Error::msg)
}

fn build(folder: &Path) -> Result<PathBuf> {
    require_commands(&[GO])?;
    let (program, cache) = (folder.join("helm-render"), folder.join("go"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("harness/helm/render.go");
    let mut go = Command::new(GO);
    // Without modules, which come from a network, but with Debian's packages.
    go.env("GO111MODULE", "off").env("GOPATH", LIBRARIES).env("GOCACHE", cache).env("GOFLAGS", "");
    finish(go.args(["build", "-o"]).arg(&program).arg(source), "", BUILD_LIMIT)
        .context("compile the program that renders charts")?;
    Ok(program)
}
