//! Processes that run in the background until they are ended.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::{END_LIMIT, PidFd, tool};
use crate::failure;

const TAIL_LINES: usize = 80;

/// A child process with its output in a file. Dropping it kills it and, if the test failed, prints the end of its log.
#[derive(Debug)]
pub(crate) struct Daemon {
    name: String,
    child: Child,
    handle: PidFd,
    log: PathBuf,
}

impl Daemon {
    /// Starts the command in its own process group, so that Ctrl-C reaches only the program that holds the cluster.
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let output = append(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let line = tool::line_of(&command);
        let child = command.spawn().map_err(|error| tool::explain(&command, error));
        let child = child.with_context(|| format!("start `{line}`"))?;
        let handle = PidFd::open(child.id())?;
        Ok(Self { name: name.to_owned(), child, handle, log: log.to_owned() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal. After SIGSTOP, waits until all threads have stopped.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.handle.signal(signal).with_context(|| self.name.clone())?;
        if signal == Signal::SIGSTOP {
            let child = Id::Pid(Pid::from_raw(self.child.id().try_into()?));
            waitid(child, WaitPidFlag::WSTOPPED)
                .with_context(|| format!("wait until {} stops", self.name))?;
        }
        Ok(())
    }

    /// Waits until the process has ended.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.handle.wait(limit).with_context(|| format!("{}\n{}", self.name, self.tail()))?;
        self.child.wait().with_context(|| format!("wait for {}", self.name))
    }

    /// Fails, with the end of the log, if the process has ended.
    pub(crate) fn ensure_running(&mut self) -> Result<()> {
        match self.child.try_wait().with_context(|| format!("look at {}", self.name))? {
            None => Ok(()),
            Some(status) => bail!("{} has ended, {status}\n{}", self.name, self.tail()),
        }
    }

    pub(crate) fn kill(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            self.signal(Signal::SIGKILL)?;
            self.wait(END_LIMIT)?;
        }
        Ok(())
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub(crate) fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        format!("--- {} (the end of {})\n{tail}\n---", self.name, self.log.display())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("test bed: {error:#}");
        }
        if failure::declared() {
            eprintln!("{}", self.tail());
        }
    }
}

fn append(log: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(log);
    file.with_context(|| format!("open the log {}", log.display()))
}
