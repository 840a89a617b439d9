//! The manual pages, made from the definition of the command line.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::generated;
use crate::phase;

/// Writes them, compressed as Debian has them, to `man/` beside the binary, where the package takes them from.
pub(super) fn write(binary: &Path) -> Result<()> {
    let pages = generated::write("manual pages", "man", &binary.with_file_name("man"))?;
    phase::execute(Command::new("gzip").args(["--best", "--no-name"]).args(pages))
}
