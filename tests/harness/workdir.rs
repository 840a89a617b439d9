//! The folder of a cluster's files: logs, subnet files, etcd data, and a bpffs for each node.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::NamedTempFile;

use crate::failure::Errors;
use crate::owner::new_tag;

#[derive(Debug)]
pub(crate) struct Workdir {
    path: PathBuf,
}

impl Workdir {
    pub(crate) fn create(tag: &str) -> Result<Self> {
        let path = parent().join(tag);
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn subdir(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("test bed: {error:#}");
        }
    }
}

pub(crate) fn parent() -> PathBuf {
    env::temp_dir()
}

/// Creates a temporary file, with a name that a sweep finds. It is removed when dropped.
pub(crate) fn temp_file(label: &str) -> Result<NamedTempFile> {
    let prefix = format!("{}-", new_tag()?);
    let file = tempfile::Builder::new().prefix(&prefix).suffix(label).tempfile_in(parent());
    file.context("make a temporary file")
}

/// Creates a folder and mounts a new BPF file system on it.
pub(crate) fn mount_bpffs(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
    mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mount a bpffs on {}", path.display()))
}

/// Unmounts everything below the folder, then removes it.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let mut errors = Errors::default();
    for mounted in mounts_below(path)?.iter().rev() {
        match umount2(mounted, MntFlags::MNT_DETACH) {
            // Another run that sweeps has unmounted it.
            Err(Errno::EINVAL | Errno::ENOENT) => {}
            unmounted => {
                errors.collect(unmounted.with_context(|| format!("unmount {}", mounted.display())));
            }
        }
    }
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            errors.collect(Err::<(), _>(error).with_context(|| format!("remove {}", path.display())));
        }
        _ => {}
    }
    errors.into_result()
}

/// Lists the mounts below a folder in the order of mounting. Does not decode spaces, which mountinfo escapes.
fn mounts_below(path: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    let targets = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    Ok(targets.filter(|target| target.starts_with(path)).collect())
}
