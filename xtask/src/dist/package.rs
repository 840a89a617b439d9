//! The Debian package. `flannel-agent/Cargo.toml` says what is in it.

use std::path::Path;

use anyhow::Result;

use super::VERSION;
use crate::architecture::Architecture;
use crate::phase;
use crate::workspace::cargo;

/// Makes it of the binary, and of `share/` beside it, which have been made.
pub(super) fn write(architecture: &Architecture, folder: &Path) -> Result<()> {
    let path = folder.join(format!("flannel-agent_{VERSION}_{}.deb", architecture.debian));
    // The profile has stripped the binary.
    let mut command = cargo(["deb", "--no-build", "--no-strip", "--package", "flannel-agent"]);
    command.args(["--target", architecture.target]).arg("--output").arg(&path);
    phase::run(&format!("Debian package for {}", architecture.debian), &mut command)
}
