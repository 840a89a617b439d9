//! Datastores of agents: etcd, or a folder of files.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, Result};

use crate::workdir::Workdir;

/// A datastore for agents.
pub trait Datastore {
    /// Returns the agent's flags for it.
    fn flags(&self) -> Vec<String>;

    /// Returns the variables that the agent of the named node needs besides.
    fn environment(&self, _node: &str) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Writes the network's configuration.
    fn configure(&self, json: &str) -> Result<()>;

    /// Returns a command line that shows its contents.
    fn show(&self) -> String;
}

/// A folder for `--local-subnet-mgr`. It is removed with its cluster.
#[derive(Debug)]
pub struct LocalStore {
    dir: PathBuf,
    _workdir: Arc<Workdir>,
}

impl LocalStore {
    pub(crate) fn create(name: &str, workdir: &Arc<Workdir>) -> Result<Self> {
        Ok(Self { dir: workdir.subdir(name)?, _workdir: Arc::clone(workdir) })
    }

    /// Returns the folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the folder of the leases.
    pub fn subnets(&self) -> PathBuf {
        self.dir.join("subnets")
    }

    /// Returns the path of a lease's file, named like `10.5.52.0-24`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.subnets().join(name)
    }

    /// Writes a lease's file in place, as `echo` in a shell does. A new file is writable.
    pub fn put(&self, name: &str, value: &str) -> Result<()> {
        fs::create_dir_all(self.subnets())?;
        fs::write(self.file(name), value).with_context(|| format!("write {name}"))
    }

    /// Writes a lease's file at once, as programs do that rename it. No one reads half of it.
    pub fn put_whole(&self, name: &str, value: &str) -> Result<()> {
        fs::create_dir_all(self.subnets())?;
        let hidden = self.file(&format!(".{name}"));
        fs::write(&hidden, value).with_context(|| format!("write {name}"))?;
        fs::rename(&hidden, self.file(name)).with_context(|| format!("rename {name}"))
    }

    /// Removes a lease's file.
    pub fn delete(&self, name: &str) -> Result<()> {
        fs::remove_file(self.file(name)).with_context(|| format!("remove {name}"))
    }

    /// Sets the modification time of a lease's file, as `touch -d` does.
    pub fn set_time(&self, name: &str, time: SystemTime) -> Result<()> {
        let times = FileTimes::new().set_accessed(time).set_modified(time);
        let set = File::open(self.file(name)).and_then(|file| file.set_times(times));
        set.with_context(|| format!("set the time of {name}"))
    }

    /// Reads all files in the folder of leases, hidden ones too.
    pub fn leases(&self) -> Result<BTreeMap<String, String>> {
        let files = fs::read_dir(self.subnets()).context("list the leases")?;
        files
            .map(|file| {
                let file = file?;
                Ok((file.file_name().to_string_lossy().into_owned(), fs::read_to_string(file.path())?))
            })
            .collect()
    }
}

impl Datastore for LocalStore {
    fn flags(&self) -> Vec<String> {
        vec![format!("--local-subnet-mgr={}", self.dir.display())]
    }

    fn configure(&self, json: &str) -> Result<()> {
        fs::write(self.dir.join("config"), json).context("write the network's configuration")
    }

    fn show(&self) -> String {
        format!("ls -l {0}; head {0}/*", self.subnets().display())
    }
}
