//! Owners of namespaces, folders and processes: their names have the pid of the run that created them.

use std::fs;
use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

use crate::sweep;

/// Environment variable of every process that the test bed starts. Its value begins with the run's tag.
pub(crate) const MARK: &str = "FLANNEL_BED";

/// Returns a new name for a cluster: `fl<pid>-<n>`.
pub(crate) fn new_tag() -> Result<String> {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    sweep_once()?;
    Ok(format!("fl{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// Sweeps before this process creates anything. Names with its own pid are from an earlier process with this pid.
fn sweep_once() -> Result<()> {
    static SWEPT: OnceLock<Result<(), String>> = OnceLock::new();
    let result = SWEPT.get_or_init(|| {
        let me = process::id();
        sweep::sweep_owners(|pid| pid == me || !is_alive(pid)).map(drop).map_err(|error| format!("{error:#}"))
    });
    result.clone().map_err(anyhow::Error::msg).context("remove what killed runs left behind")
}

/// Returns the pid in a name of the form `fl<pid>-<n>` or `fl<pid>-<n>-<label>`.
pub(crate) fn owner_of(name: &str) -> Option<u32> {
    let mut parts = name.strip_prefix("fl")?.splitn(3, '-');
    let pid = parts.next()?.parse().ok()?;
    parts.next()?.parse::<u32>().ok()?;
    Some(pid)
}

/// Returns true if the process runs. A zombie does not.
pub(crate) fn is_alive(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}
