//! Runs the agent on the machine itself, in place of this process.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};
use flannel_tests::agent::agent_binary;

use crate::phase;

/// Replaces this process by the agent, which gets its signals and gives the exit status.
pub(crate) fn run(flags: &[String]) -> Result<()> {
    let agent = agent_binary()?;
    phase::note(&format!("{} {}", agent.display(), flags.join(" ")));
    let error = Command::new(&agent).args(flags).exec();
    Err(error).with_context(|| format!("cannot run {}", agent.display()))
}
