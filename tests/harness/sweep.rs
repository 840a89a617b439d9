//! Removes what killed runs left behind.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cgroup;
use crate::failure::Errors;
use crate::netns::{self, NETNS_DIR};
use crate::owner::{is_alive, owner_of};
use crate::{process, workdir};

/// What a sweep found and removed.
#[derive(Debug, Default)]
pub struct Swept {
    /// Processes that were ended.
    pub processes: Vec<u32>,
    /// Network namespaces that were removed.
    pub namespaces: Vec<String>,
    /// Folders that were removed, with the mounts below them.
    pub folders: Vec<PathBuf>,
}

/// Removes processes, namespaces, cgroups, mounts and folders of runs that no longer exist.
pub fn sweep() -> Result<Swept> {
    sweep_owners(|pid| !is_alive(pid))
}

pub(crate) fn sweep_owners(dead: impl Fn(u32) -> bool) -> Result<Swept> {
    let left = |name: &str| owner_of(name).is_some_and(&dead);
    let mut errors = Errors::default();
    let processes = errors.collect(process::end_marked(|mark, _| left(mark))).unwrap_or_default();
    let mut swept = Swept { processes, ..Swept::default() };
    for name in names_in(Path::new(NETNS_DIR)).filter(|name| left(name)) {
        errors.collect(netns::remove(&name));
        swept.namespaces.push(name);
    }
    errors.collect(cgroup::remove(left));
    let parent = workdir::parent();
    for name in names_in(&parent).filter(|name| left(name)) {
        let folder = parent.join(name);
        errors.collect(workdir::remove(&folder));
        swept.folders.push(folder);
    }
    errors.into_result().map(|()| swept)
}

fn names_in(folder: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}
