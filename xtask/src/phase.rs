//! Prints what a chore does: a line when a phase starts, and one with its duration when it ends.

use std::fmt::Display;
use std::io::{IsTerminal, stderr};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

const GREEN: &str = "32";
const RED: &str = "31";

/// Runs the command as a phase, with the terminal as its output.
pub(crate) fn run(title: &str, command: &mut Command) -> Result<()> {
    measured(title, || execute(command))
}

/// Does the work as a phase.
pub(crate) fn measured<T>(title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    line(GREEN, "start", title);
    let start = Instant::now();
    let result = work();
    let seconds = start.elapsed().as_secs_f32();
    match &result {
        Ok(_) => line(GREEN, "done", format_args!("{title}: {seconds:.1} s")),
        Err(_) => line(RED, "failed", format_args!("{title}: {seconds:.1} s")),
    }
    result
}

/// Runs the command with the terminal as its output.
pub(crate) fn execute(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot run {name}"))?;
    if !status.success() {
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
        bail!("`{name} {}` failed ({status})", arguments.join(" "));
    }
    Ok(())
}

/// Prints something that the user should know.
pub(crate) fn note(message: &str) {
    line(GREEN, "xtask", message);
}

/// Prints why the chore failed.
pub(crate) fn error(message: &str) {
    line(RED, "error", message);
}

fn line(colour: &str, label: &str, message: impl Display) {
    // The same column as cargo's labels.
    if stderr().is_terminal() {
        eprintln!("\x1b[1;{colour}m{label:>12}\x1b[0m {message}");
    } else {
        eprintln!("{label:>12} {message}");
    }
}
