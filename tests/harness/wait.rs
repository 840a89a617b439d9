//! Waiting for conditions; nothing in the bed sleeps for a fixed time.

use std::sync::LazyLock;
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Result, bail};

/// How many times longer than on a usual machine everything may take here: a whole number, 1 if it is not set.
const SLOWNESS: &str = "FLANNEL_BED_SLOWNESS";
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// The limit for what takes no longer than `usual` on a usual machine. Everything in the bed that gives up waits so.
pub fn patience(usual: Duration) -> Duration {
    static FACTOR: LazyLock<u32> =
        LazyLock::new(|| env::var(SLOWNESS).ok().and_then(|factor| factor.parse().ok()).unwrap_or(1));
    usual.saturating_mul(*FACTOR)
}

/// Repeats `attempt` until it succeeds; after [`patience`] with `limit` the error says `what` was awaited and why it last failed.
pub fn eventually<T>(what: &str, limit: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let (start, limit) = (Instant::now(), patience(limit));
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
