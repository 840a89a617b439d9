//! Waits for conditions. Tests never sleep for a fixed time.

use std::sync::LazyLock;
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Result, bail};

/// Environment variable with the factor by which all time limits grow on a slow machine: a whole number, 1 by default.
const SLOWNESS: &str = "FLANNEL_BED_SLOWNESS";
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Scales a time limit by the factor in `FLANNEL_BED_SLOWNESS`. All time limits of the test bed go through this.
pub fn scaled(usual: Duration) -> Duration {
    static FACTOR: LazyLock<u32> =
        LazyLock::new(|| env::var(SLOWNESS).ok().and_then(|factor| factor.parse().ok()).unwrap_or(1));
    usual.saturating_mul(*FACTOR)
}

/// Repeats `attempt` until it succeeds. After the [`scaled`] limit, fails with `what` and the last error.
pub fn eventually<T>(what: &str, limit: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let (start, limit) = (Instant::now(), scaled(limit));
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

/// Checks every 20 ms, for all of `time`, that `condition` holds.
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
