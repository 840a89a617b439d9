//! Cgroups of the test bed's containers, at the root of every hierarchy. They stay when their processes have ended.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::failure::Errors;
use crate::wait::eventually;

/// Time limit. The kernel takes a moment to remove a killed process from its cgroup.
const LIMIT: Duration = Duration::from_secs(5);
/// The controllers that kubelet and container runtimes need in a hierarchy of version 2.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// A mounted hierarchy of cgroups.
#[derive(Debug, Clone)]
struct Hierarchy {
    mounted_on: PathBuf,
    /// The options that mount a hierarchy of version 1; `None` for version 2.
    options: Option<String>,
}

impl Hierarchy {
    /// Parses a line of `/proc/self/mountinfo`. Returns `None` for another file system.
    fn parse(line: &str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mounted_on = mount.split(' ').nth(4)?.into();
        let mut words = file_system.split(' ');
        let options = match words.next()? {
            "cgroup" => Some(mount_options(words.nth(1)?)),
            "cgroup2" => None,
            _ => return None,
        };
        Some(Self { mounted_on, options })
    }
}

/// Turns the options that a mounted hierarchy shows into those that mount it: `rw,cpu` is `cpu`.
fn mount_options(shown: &str) -> String {
    let controllers: Vec<_> = shown.split(',').filter(|option| *option != "rw").collect();
    let named = controllers.iter().any(|option| option.starts_with("name="));
    if named { format!("none,{}", controllers.join(",")) } else { controllers.join(",") }
}

/// A cgroup of one name in each of several hierarchies.
#[derive(Debug, Clone)]
pub(crate) struct Cgroup {
    hierarchies: Vec<Hierarchy>,
    name: String,
}

impl Cgroup {
    /// Makes it in the hierarchy of version 2.
    pub(crate) fn unified(name: &str) -> Result<Self> {
        let unified = hierarchies()?.into_iter().find(|hierarchy| hierarchy.options.is_none());
        Self::make(name, vec![unified.context("no cgroup2 is mounted on this machine")?])
    }

    /// Makes it in all hierarchies of version 1. On a machine without them, makes it in that of version 2.
    pub(crate) fn everywhere(name: &str) -> Result<Self> {
        let (first, second): (Vec<_>, Vec<_>) =
            hierarchies()?.into_iter().partition(|hierarchy| hierarchy.options.is_some());
        Self::make(name, if first.is_empty() { second } else { first })
    }

    fn make(name: &str, hierarchies: Vec<Hierarchy>) -> Result<Self> {
        for Hierarchy { mounted_on, options } in &hierarchies {
            let path = mounted_on.join(name);
            fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
            match options {
                Some(_) => allow_processors(mounted_on, &path)?,
                None => delegate(mounted_on),
            }
        }
        Ok(Self { hierarchies, name: name.to_owned() })
    }

    /// Returns its folders, one for each hierarchy.
    pub(crate) fn folders(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.iter().map(|hierarchy| hierarchy.mounted_on.join(&self.name))
    }

    /// Removes it from all hierarchies, with all cgroups below it. Its processes must have ended.
    pub(crate) fn remove(&self) -> Result<()> {
        remove(|name| name == self.name)
    }

    /// Returns a line for each hierarchy of version 1: the name of its folder, and the options that mount it.
    pub(crate) fn mounts(&self) -> String {
        let lines = self.hierarchies.iter().filter_map(|hierarchy| {
            let folder = hierarchy.mounted_on.file_name()?.to_str()?;
            Some(format!("{folder} {}\n", hierarchy.options.as_ref()?))
        });
        lines.collect()
    }
}

/// Copies the processors and memory nodes of the parent. Without them a cpuset takes no process.
fn allow_processors(parent: &Path, path: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if let Ok(value) = fs::read_to_string(parent.join(file)) {
            fs::write(path.join(file), value)
                .with_context(|| format!("write {file} of {}", path.display()))?;
        }
    }
    Ok(())
}

/// Passes on the controllers that there are. A container without one of them says so itself.
pub(crate) fn delegate(path: &Path) {
    for controller in CONTROLLERS {
        let _ = fs::write(path.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// Removes the cgroups with chosen names at the root of every hierarchy, with all cgroups below them.
pub(crate) fn remove(chosen: impl Fn(&str) -> bool) -> Result<()> {
    let mut errors = Errors::default();
    for root in hierarchies()? {
        for entry in fs::read_dir(&root.mounted_on).into_iter().flatten().flatten() {
            if entry.file_name().to_str().is_some_and(&chosen) {
                errors.collect(eventually("a cgroup is removed", LIMIT, || remove_tree(&entry.path())));
            }
        }
    }
    errors.into_result()
}

/// Returns all mounted hierarchies, version 1 and 2.
fn hierarchies() -> Result<Vec<Hierarchy>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    Ok(table.lines().filter_map(Hierarchy::parse).collect())
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
