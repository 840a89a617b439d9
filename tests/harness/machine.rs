//! A machine for one node that systemd has booted: a container on a layer above this machine's files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::cluster::Node;
use crate::docker::cgroup;
use crate::failure::Errors;
use crate::netns::NetNs;
use crate::process::{Daemon, PidFd, finish};
use crate::require::require_commands;
use crate::wait::eventually;
use crate::workdir::Workdir;

/// Enters the cgroup that the first argument names, then namespaces of which that cgroup is the root.
const ENTER: &str = r#"
    echo 0 > "$1/cgroup.procs"; shift
    exec unshare --mount --pid --fork --kill-child --cgroup --uts --ipc sh -c "$@"
"#;
/// Runs in those namespaces.
const BOOT: &str = include_str!("machine/boot.sh");
const BOOT_LIMIT: Duration = Duration::from_secs(20);
const END_LIMIT: Duration = Duration::from_secs(5);
/// Installing a package starts the triggers of others: the index of manual pages is made anew.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// A booted machine in the network namespace of a node. Dropped, it ends, and its files are gone.
#[derive(Debug)]
pub struct Machine {
    init: PidFd,
    pid: u32,
    starter: Daemon,
    netns: Arc<NetNs>,
    _workdir: Arc<Workdir>,
}

impl Machine {
    /// Boots it. It shares the node's network and BPF file system.
    pub fn boot(node: &Node) -> Result<Self> {
        require_commands(&["unshare", "nsenter", "/lib/systemd/systemd"])?;
        let folder = node.dir().join("machine");
        fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
        // systemd leaves its cgroups behind. They go with this one.
        let cgroup = cgroup::make(node.netns().name())?;
        let mut command = node.netns().command("sh");
        command.args(["-c", ENTER, "enter"]).arg(cgroup);
        command.args([BOOT, "boot"]).arg(&folder).arg(node.bpffs()?);
        let name = format!("the machine of {}", node.name());
        let mut starter = Daemon::start(&name, command, &node.dir().join("machine.log"))?;
        let mut pid = 0;
        let booted = eventually(&format!("{name} is up"), BOOT_LIMIT, || {
            starter.ensure_running()?;
            pid = child_of(starter.pid())?;
            enter(pid, "systemctl is-active boot.target").map(drop)
        });
        booted.with_context(|| starter.tail())?;
        Ok(Self {
            init: PidFd::open(pid)?,
            pid,
            starter,
            netns: Arc::clone(node.netns()),
            _workdir: Arc::clone(&node.workdir),
        })
    }

    /// Runs a command line, split at blanks, and gives its standard output.
    pub fn exec(&self, line: &str) -> Result<String> {
        enter(self.pid, line)
    }

    /// A file of the machine, seen from outside.
    pub fn path(&self, path: &str) -> PathBuf {
        Path::new("/proc").join(self.pid.to_string()).join("root").join(path.trim_start_matches('/'))
    }

    /// The folder of the files that are not as on this machine, with what has been removed as a device node.
    pub fn layer(&self) -> PathBuf {
        self.path("/layer/changed")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let mut errors = Errors::default();
        // The first process of a namespace takes all others with it.
        errors.collect(self.init.signal(Signal::SIGKILL));
        errors.collect(self.starter.wait(END_LIMIT));
        errors.collect(cgroup::remove(|name| name == self.netns.name()));
        if let Err(error) = errors.into_result() {
            eprintln!("test bed: {error:#}");
        }
    }
}

fn child_of(pid: u32) -> Result<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let child = children.split_whitespace().next().context("it has no first process yet")?;
    Ok(child.parse()?)
}

fn enter(pid: u32, line: &str) -> Result<String> {
    let mut words = line.split_whitespace().peekable();
    ensure!(words.peek().is_some(), "the command line is empty");
    let mut command = Command::new("nsenter");
    command.args(["--all", "--root", "--wd", "--target", &pid.to_string()]).args(words);
    finish(&mut command, "", COMMAND_LIMIT)
}
