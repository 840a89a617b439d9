//! Runs commands with a time limit, runs daemons, and ends what was started.

mod daemon;
mod pidfd;
mod tool;

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::failure::Errors;
use crate::owner::MARK;
pub(crate) use daemon::Daemon;
pub(crate) use pidfd::PidFd;
pub use tool::{Finished, LIMIT, complete, finish};

const END_LIMIT: Duration = Duration::from_secs(5);

/// Kills the test bed's processes that `chosen` selects by mark and pid. Returns their pids.
pub(crate) fn end_marked(chosen: impl Fn(&str, u32) -> bool) -> Result<Vec<u32>> {
    let mut errors = Errors::default();
    let mut ended = Vec::new();
    for pid in pids().filter(|pid| *pid != std::process::id()) {
        // Opened before the check: if the pid is reused, the signal fails instead of hitting another process.
        let Ok(handle) = PidFd::open(pid) else { continue };
        if mark_of(pid).is_some_and(|mark| chosen(&mark, pid)) {
            errors.collect(handle.signal(Signal::SIGKILL).and_then(|()| handle.wait(END_LIMIT)));
            ended.push(pid);
        }
    }
    errors.into_result().map(|()| ended)
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn mark_of(pid: u32) -> Option<String> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let prefix = format!("{MARK}=");
    let entry =
        environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(prefix.as_bytes()))?;
    Some(std::ffi::OsStr::from_bytes(entry).to_string_lossy().into_owned())
}
