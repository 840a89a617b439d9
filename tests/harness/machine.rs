//! A machine for one node that systemd has booted: a container on a layer above this machine's files.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cgroup::Cgroup;
use crate::cluster::Node;
use crate::container::{self, Container};
use crate::require::require_commands;
use crate::workdir::Workdir;

/// Its first process, until that becomes systemd.
const BOOT: &str = include_str!("machine/boot.sh");
const BOOT_LIMIT: Duration = Duration::from_secs(20);

/// A booted machine in the network namespace of a node. Dropped, it ends, and its files are gone.
#[derive(Debug)]
pub struct Machine {
    container: Container,
    _workdir: Arc<Workdir>,
}

impl Machine {
    /// Boots it. It shares the node's network and BPF file system.
    pub fn boot(node: &Node) -> Result<Self> {
        require_commands(&["/lib/systemd/systemd"])?;
        let folder = node.dir().join("machine");
        fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
        // systemd leaves its cgroups behind. They go with this one.
        let cgroup = Cgroup::unified(node.netns().name())?;
        let name = format!("the machine of {}", node.name());
        let arguments = [folder.to_string_lossy(), node.bpffs()?.to_string_lossy()];
        let arguments = [&*arguments[0], &*arguments[1]];
        let is_ready = |pid| container::enter(pid, "systemctl is-active boot.target").map(drop);
        let log = node.dir().join("machine.log");
        let script = (BOOT, &arguments[..]);
        let container = Container::start(&name, node.netns(), cgroup, script, &log, is_ready, BOOT_LIMIT)?;
        Ok(Self { container, _workdir: Arc::clone(&node.workdir) })
    }

    /// Runs a command line, split at blanks, and gives its standard output.
    pub fn exec(&self, line: &str) -> Result<String> {
        self.container.exec(line)
    }

    /// A file of the machine, seen from outside.
    pub fn path(&self, path: &str) -> PathBuf {
        container::path_in(self.container.pid(), path)
    }

    /// The folder of the files that are not as on this machine, with what has been removed as a device node.
    pub fn layer(&self) -> PathBuf {
        self.path("/layer/changed")
    }
}
