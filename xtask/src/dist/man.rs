//! The manual pages, made from the definition of the command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::phase;
use crate::workspace::cargo;

/// Writes them, compressed as Debian has them, to `man/` beside the binary, where the package takes them from.
pub(super) fn write(binary: &Path) -> Result<()> {
    let folder = binary.with_file_name("man");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let mut command = cargo(["run", "--quiet", "--package", "flannel-agent", "--example", "man", "--"]);
    phase::run("manual pages", command.arg(&folder))?;
    let pages = folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))?;
    let pages = pages.map(|page| Ok(page?.path())).collect::<Result<Vec<PathBuf>>>()?;
    phase::execute(Command::new("gzip").args(["--best", "--no-name"]).args(pages))
}
