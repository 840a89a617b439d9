//! What the test bed needs from the machine. A missing tool or privilege is an error that says what to do.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;

use crate::tools::{self, Source, TOOLS, Tool};

/// Fails unless the process may make network namespaces and mounts.
pub fn require_root() -> Result<()> {
    if geteuid().is_root() {
        return Ok(());
    }
    bail!("the test bed makes network namespaces and mounts: run it as root (sudo -E cargo xtask test)")
}

/// Fails unless every command can be run.
pub fn require_commands(commands: &[&str]) -> Result<()> {
    let missing: Vec<_> = commands.iter().filter(|command| !can_run(command)).map(|c| hint(c)).collect();
    if missing.is_empty() { Ok(()) } else { bail!(missing.join("; ")) }
}

/// Returns the file of a tool of the list, or fails.
pub(crate) fn require_tool(probe: &str) -> Result<PathBuf> {
    let tool = TOOLS.iter().find(|tool| tool.probe == probe);
    tool.and_then(Tool::find).with_context(|| format!("`{probe}` is not installed: run cargo xtask setup"))
}

/// Returns what to do about a command that cannot be run.
pub(crate) fn hint(command: &str) -> String {
    if let Some(file) = tools::find_program(command) {
        return format!("`{command}` is at {}, a folder that is not in PATH", file.display());
    }
    let tool = TOOLS.iter().find(|tool| tool.probe == command);
    let package = match tool.map(|tool| tool.source) {
        Some(Source::Package(package)) => package,
        _ => command,
    };
    format!(
        "`{command}` is not installed: apt-get install {package}, or cargo xtask setup, which installs all tools"
    )
}

fn can_run(command: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    Path::new(command).is_file() || env::split_paths(&path).any(|folder| folder.join(command).is_file())
}
