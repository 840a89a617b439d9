//! Waiting for conditions; nothing in the bed sleeps for a fixed time.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Repeats `attempt` until it succeeds; after `limit` the error says `what` was awaited and why it last failed.
pub fn eventually<T>(what: &str, limit: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= limit => bail!("{what}: not within {limit:?}: {error:#}"),
            Err(_) => thread::sleep(pause),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Checks again and again, for all of `time`, that `condition` holds.
pub fn throughout(what: &str, time: Duration, mut condition: impl FnMut() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < time {
        if let Err(error) = condition() {
            bail!("{what}: no longer after {:?}: {error:#}", start.elapsed());
        }
        thread::sleep(LONGEST_PAUSE);
    }
    Ok(())
}
