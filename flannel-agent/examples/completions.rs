//! Writes the completions of the agent's command line for bash, zsh and fish into a folder, by the names that packages give them.
//!
//! `cargo run -p flannel-agent --example completions -- DIR`; `cargo xtask dist` runs it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::{Shell, generate};
use flannel_agent::cli::Flags;

/// The shells, and the names of their files.
const FILES: [(Shell, &str); 3] =
    [(Shell::Bash, "flannel-agent"), (Shell::Zsh, "_flannel-agent"), (Shell::Fish, "flannel-agent.fish")];

fn main() -> Result<()> {
    let folder = PathBuf::from(std::env::args_os().nth(1).context("name the folder to write to")?);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for (shell, name) in FILES {
        let mut script = Vec::new();
        generate(shell, &mut Flags::command(), "flannel-agent", &mut script);
        let path = folder.join(name);
        fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
