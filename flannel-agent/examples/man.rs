//! Writes the manual pages of the agent and of its subcommands, made from the command line's definition, into a folder.
//!
//! `cargo run -p flannel-agent --example man -- DIR`; `cargo xtask dist` runs it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use flannel_agent::cli::Flags;

/// Programs that an administrator runs.
const SECTION: &str = "8";

fn main() -> Result<()> {
    let folder = PathBuf::from(std::env::args_os().nth(1).context("name the folder to write to")?);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut command = Flags::command().disable_help_subcommand(true);
    // Gives subcommands their full names: `flannel-agent-trace`.
    command.build();
    write(&command, &folder)
}

fn write(command: &Command, folder: &Path) -> Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let path = folder.join(format!("{name}.{SECTION}"));
    let version = command.get_version().unwrap_or_default();
    let page = Man::new(command.clone()).section(SECTION).source(format!("flannel-agent {version}"));
    let written = File::create(&path).and_then(|mut file| page.render(&mut file));
    written.with_context(|| format!("cannot write {}", path.display()))?;
    command.get_subcommands().try_for_each(|subcommand| write(subcommand, folder))
}
