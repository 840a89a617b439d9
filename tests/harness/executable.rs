//! Programs that tests make and run.
//!
//! Another process writes them. What this process writes may be open for writing in a child that another thread has just forked, until
//! that executes its own program, and the kernel executes no file that is open for writing (`ETXTBSY`).

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process::{LIMIT, finish};

/// Copies a program, or replaces a file by it. Everybody may execute it.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    install(from, to, "")
}

/// Writes a script, or replaces a file by it. Everybody may execute it.
pub fn script(to: &Path, text: &str) -> Result<()> {
    install(Path::new("/dev/stdin"), to, text)
}

fn install(from: &Path, to: &Path, input: &str) -> Result<()> {
    let mut command = Command::new("install");
    command.args(["-m", "755", "-T"]).arg(from).arg(to);
    finish(&mut command, input, LIMIT)
        .with_context(|| format!("write the program {}", to.display()))
        .map(drop)
}
