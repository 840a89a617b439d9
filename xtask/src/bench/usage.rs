//! What a running agent takes: CPU time, memory, and memory of its maps in the kernel.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

/// Interval of looking at its CPU time, and limit until it rests.
const LOOK: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(30);

/// Returns the CPU time of all threads. The first number of schedstat is nanoseconds.
pub(super) fn cpu(pid: u32) -> Result<Duration> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        nanoseconds += text.split(' ').next().context("schedstat is empty")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Waits until the process does next to nothing.
pub(super) fn wait_resting(pid: u32) -> Result<()> {
    let start = Instant::now();
    let mut before = cpu(pid)?;
    loop {
        thread::sleep(LOOK);
        let now = cpu(pid)?;
        if now - before < LOOK / 100 {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "the agent is still busy");
        before = now;
    }
}

/// Returns resident memory in bytes, now (`VmRSS:`) or at its peak (`VmHWM:`).
pub(super) fn memory(pid: u32, which: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line =
        status.lines().find_map(|line| line.strip_prefix(which)).with_context(|| format!("no {which}"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

/// Returns the bytes that the kernel has locked for the maps which the agent has open, each map once.
pub(super) fn locked(pid: u32) -> Result<u64> {
    let mut maps = BTreeMap::new();
    for file in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A file that was closed since is none of the maps.
        let Ok(text) = fs::read_to_string(file?.path()) else { continue };
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
            value.filter(|_| text.contains("map_type:"))
        };
        maps.extend(field("map_id:").zip(field("memlock:")));
    }
    Ok(maps.values().sum())
}
