//! Writes the completions of the agent's command line for bash, zsh and fish into a folder, where packages have them below
//! `/usr/share`.
//!
//! `cargo run -p flannel-agent --example completions -- DIR`; `cargo xtask dist` runs it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use clap::CommandFactory as _;
use clap_complete::{Shell, generate};
use flannel_agent::cli::Flags;

/// The shells, and the names of their files.
const FILES: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions/flannel-agent"),
    (Shell::Zsh, "zsh/vendor-completions/_flannel-agent"),
    (Shell::Fish, "fish/vendor_completions.d/flannel-agent.fish"),
];

fn main() -> Result<()> {
    let folder = PathBuf::from(std::env::args_os().nth(1).context("name the folder to write to")?);
    for (shell, name) in FILES {
        let mut script = Vec::new();
        generate(shell, &mut Flags::command(), "flannel-agent", &mut script);
        let mut script = String::from_utf8(script).context("the completions are no text")?;
        if shell == Shell::Fish {
            script = with_values(&script)?;
        }
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(&folder);
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Makes fish complete the value of a flag that stands before any subcommand: `--xdp nat`. clap_complete 4.6.0 asks fish whether there is
/// a subcommand yet, and takes the answer that the last flag lacks its value for a yes. It is asked again, with a value.
fn with_values(script: &str) -> Result<String> {
    const QUESTION: &str = "argparse -s (__fish_flannel_agent_global_optspecs) -- $cmd";
    let line = format!("{QUESTION} 2>/dev/null\n");
    ensure!(script.matches(&line).count() == 1, "the completions for fish are not as expected");
    Ok(script.replace(&line, &format!("{line}\tor {QUESTION} '' 2>/dev/null\n")))
}
