//! Removes the cgroups of a dockerd's containers, which stay when their processes have ended.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::failure::Errors;
use crate::wait::eventually;

/// Time limit. The kernel takes a moment to remove a killed process from its cgroup.
const LIMIT: Duration = Duration::from_secs(5);

/// Removes the cgroups with chosen names at the root of every hierarchy, with all cgroups below them.
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

/// Makes a cgroup with this name at the root of the hierarchy of version 2.
pub(crate) fn make(name: &str) -> Result<PathBuf> {
    let roots = mounted("cgroup2 ")?;
    let path = roots.first().context("no cgroup2 is mounted on this machine")?.join(name);
    fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
    Ok(path)
}

/// Returns the mount points of all cgroup hierarchies, version 1 and 2.
fn roots() -> Result<Vec<PathBuf>> {
    mounted("cgroup")
}

fn mounted(kind: &str) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    let kind = format!(" - {kind}");
    let mounts = table.lines().filter(|line| line.contains(&kind));
    Ok(mounts.filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect())
}

/// Removes a cgroup and those below it. Files in a cgroup need not be removed first.
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
