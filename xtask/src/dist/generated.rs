//! Files that are made from the definition of the command line, by examples of the agent's crate.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::phase;
use crate::workspace::cargo;

/// Has an example write its files to a folder, which is empty before. Returns them.
pub(super) fn write(what: &str, example: &str, folder: &Path) -> Result<Vec<PathBuf>> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let mut command = cargo(["run", "--quiet", "--package", "flannel-agent", "--example", example, "--"]);
    phase::run(what, command.arg(folder))?;
    let files = folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))?;
    files.map(|file| Ok(file?.path())).collect()
}
