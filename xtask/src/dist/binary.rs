//! The agent as a static binary.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::architecture::Architecture;
use crate::phase;
use crate::workspace::{cargo, target};

/// The section in which cargo-auditable lists all crates of the binary and their versions: the bill of materials, which
/// `cargo audit bin` and scanners of containers read.
const MATERIALS: &[u8] = b".dep-v0\0";

/// Builds it, optimised, and returns its file.
pub(crate) fn build(architecture: &Architecture) -> Result<PathBuf> {
    let mut command =
        cargo(["auditable", "build", "--release", "--package", "flannel-agent", "--bin", "flannel-agent"]);
    phase::run(&format!("static binary for {}", architecture.name), architecture.select(&mut command))?;
    let path = target()?.join(architecture.target).join("release/flannel-agent");
    let binary = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let listed = binary.windows(MATERIALS.len()).any(|window| window == MATERIALS);
    ensure!(listed, "cargo-auditable has not listed the crates of {}", path.display());
    Ok(path)
}
