//! The cgroups of a dockerd's containers. Their processes' end leaves them empty, and somebody has to remove them.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::failure::Errors;
use crate::wait::eventually;

/// The kernel takes a moment to see that a killed process is no longer in its cgroup.
const LIMIT: Duration = Duration::from_secs(5);

/// Removes the cgroups at the root of every hierarchy whose names are chosen, with all below them.
pub(crate) fn remove(chosen: impl Fn(&str) -> bool) -> Result<()> {
    let mut errors = Errors::default();
    for root in roots()? {
        for entry in fs::read_dir(&root).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(&chosen) {
                errors.collect(eventually("a cgroup is removed", LIMIT, || remove_tree(&entry.path())));
            }
        }
    }
    errors.into_result()
}

/// Where hierarchies are mounted, of either version.
fn roots() -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    let mounts = table.lines().filter(|line| line.contains(" - cgroup"));
    Ok(mounts.filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect())
}

/// The files in a cgroup cannot be removed and need not be.
fn remove_tree(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
    .with_context(|| format!("remove {}", path.display()))
}
