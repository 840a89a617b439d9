//! Waits for conditions. Tests never sleep for a fixed time.

use std::sync::LazyLock;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Result, bail};

/// Environment variable with the factor by which all time limits grow on a slow machine: a whole number, 1 by default.
const SLOWNESS: &str = "FLANNEL_BED_SLOWNESS";
/// Most times that a limit for giving up grows because the machine is busy.
const MOST_CROWDED: f64 = 8.0;
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Scales a time limit by the factor in `FLANNEL_BED_SLOWNESS`. All time limits of the test bed go through this.
pub fn scaled(usual: Duration) -> Duration {
    static FACTOR: LazyLock<u32> =
        LazyLock::new(|| env::var(SLOWNESS).ok().and_then(|factor| factor.parse().ok()).unwrap_or(1));
    usual.saturating_mul(*FACTOR)
}

/// Returns after which time to give up what usually takes less than this: the [`scaled`] limit, on a busy machine as many
/// times that as there is more work than CPUs. It is no limit for what a test is about: a fault that only lasts some time,
/// as a proof does, would pass.
pub fn patience(usual: Duration) -> Duration {
    scaled(usual).mul_f64(crowding().clamp(1.0, MOST_CROWDED))
}

/// Returns how many tasks have run or waited in the last minute, for each CPU.
pub(crate) fn crowding() -> f64 {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    first_average(&load) / cpus as f64
}

fn first_average(loadavg: &str) -> f64 {
    loadavg.split_whitespace().next().and_then(|average| average.parse().ok()).unwrap_or(0.0)
}

/// Repeats `attempt` until it succeeds. After the [`scaled`] limit, fails with `what` and the last error.
pub fn eventually<T>(what: &str, limit: Duration, attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let limit = scaled(limit);
    repeat(what, || limit, attempt)
}

/// [`eventually`] with [`patience`]: for what has to be there before a test begins, and for processes that have to end.
pub fn patiently<T>(what: &str, limit: Duration, attempt: impl FnMut() -> Result<T>) -> Result<T> {
    repeat(what, || patience(limit), attempt)
}

fn repeat<T>(what: &str, limit: impl Fn() -> Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) => {
                let limit = limit();
                if start.elapsed() >= limit {
                    bail!("{what}: not within {limit:?}: {error:#}");
                }
                thread::sleep(pause);
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_of_the_last_minute_is_read() {
        assert!((first_average("54.54 41.78 28.32 10/620 1869\n") - 54.54).abs() < 1e-9);
        assert!(first_average("").abs() < 1e-9);
    }

    #[test]
    fn waiting_ends() {
        let usual = Duration::from_millis(1);
        assert!(patience(usual) >= scaled(usual) && patience(usual) <= scaled(usual) * 8);
        assert!(eventually("never", usual, || bail!("no") as Result<()>).is_err());
        assert!(patiently("never", usual, || bail!("no") as Result<()>).is_err());
    }
}
