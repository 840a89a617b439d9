//! Commands that run to their end.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::PidFd;
use crate::require;

/// The usual time limit of a command.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Runs a command to its end and returns its standard output. Kills it after `limit`.
///
/// The error has the command line and the command's output. Input and output go through memory files, so that no pipe
/// fills up and no thread has to empty one.
pub fn finish(command: &mut Command, input: &str, limit: Duration) -> Result<String> {
    let line = line_of(command);
    run(command, input, limit).with_context(|| format!("`{line}`"))
}

fn run(command: &mut Command, input: &str, limit: Duration) -> Result<String> {
    let Finished { status, stdout, stderr } = complete(command, input, limit)?;
    if status.success() { Ok(stdout) } else { bail!("{status}: {}{}", stderr.trim(), stdout.trim()) }
}

/// How a command ended, and what it printed.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// [`finish`] for a command that may fail.
pub fn complete(command: &mut Command, input: &str, limit: Duration) -> Result<Finished> {
    let mut stdin = memory_file()?;
    stdin.write_all(input.as_bytes())?;
    stdin.rewind()?;
    let (stdout, stderr) = (memory_file()?, memory_file()?);
    command.stdin(stdin).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let spawned = command.spawn();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = spawned.map_err(|error| explain(command, error))?;
    if let Err(late) = PidFd::open(child.id()).and_then(|handle| handle.wait(limit)) {
        child.kill()?;
        child.wait()?;
        bail!("{late:#}: {}", text(stderr)?.trim());
    }
    Ok(Finished { status: child.wait()?, stdout: text(stdout)?, stderr: text(stderr)? })
}

fn memory_file() -> Result<File> {
    Ok(memfd_create("test-bed", MFdFlags::MFD_CLOEXEC).context("make a memory file")?.into())
}

fn text(mut file: File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

pub(super) fn explain(command: &Command, error: std::io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::NotFound => anyhow!(require::hint(&command.get_program().to_string_lossy())),
        _ => error.into(),
    }
}

pub(super) fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
