//! Waits for a lock that apt cannot wait for by itself.

use std::fs::File;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::phase;

const PATIENCE: Duration = Duration::from_secs(300);

/// Returns when no other process holds the lock. Prints a note if it has to wait.
pub(crate) fn wait(path: &str) -> Result<()> {
    let start = Instant::now();
    let mut noted = false;
    while let Some(holder) = holder(path)? {
        if start.elapsed() > PATIENCE {
            bail!("process {holder} has held {path} for {} s", PATIENCE.as_secs());
        }
        if !noted {
            phase::note(&format!("waiting for process {holder}, which holds {path}"));
            noted = true;
        }
        sleep(Duration::from_millis(500));
    }
    Ok(())
}

/// Returns the process that holds the lock. None if no process does, or the file does not exist yet.
fn holder(path: &str) -> Result<Option<i32>> {
    let Ok(file) = File::open(path) else { return Ok(None) };
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_GETLK(&mut lock))?;
    Ok((lock.l_type != libc::F_UNLCK as i16).then_some(lock.l_pid))
}
