//! Containers: a first process with mount, pid, uts, ipc and cgroup namespaces of its own, in a given network namespace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::cgroup::Cgroup;
use crate::failure::Errors;
use crate::netns::NetNs;
use crate::process::{Daemon, PidFd, finish};
use crate::require::require_commands;
use crate::wait::patiently;

/// Enters the cgroups that the arguments before `--` name, then namespaces of which those cgroups are the root.
const ENTER: &str = r#"
    while [ "$1" != -- ]; do
        echo 0 > "$1/cgroup.procs"
        shift
    done
    shift
    exec unshare --mount --pid --fork --kill-child --cgroup --uts --ipc sh -c "$@"
"#;
const END_LIMIT: Duration = Duration::from_secs(5);
/// Installing a package starts the triggers of others: the index of manual pages is made anew.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// A running container. Dropped, its processes end, and its cgroups are removed.
#[derive(Debug)]
pub(crate) struct Container {
    init: PidFd,
    pid: u32,
    starter: Daemon,
    cgroup: Cgroup,
    netns: Arc<NetNs>,
}

impl Container {
    /// Starts a shell script as the first process, and waits until `is_ready`, which gets the script's pid.
    pub(crate) fn start(
        name: &str,
        netns: &Arc<NetNs>,
        cgroup: Cgroup,
        script: (&str, &[&str]),
        log: &Path,
        is_ready: impl Fn(u32) -> Result<()>,
        limit: Duration,
    ) -> Result<Self> {
        require_commands(&["unshare", "nsenter"])?;
        let mut command = netns.command("sh");
        command.args(["-c", ENTER, "enter"]).args(cgroup.folders()).arg("--");
        command.args([script.0, "boot"]).args(script.1);
        let mut starter = Daemon::start(name, command, log)?;
        let mut pid = 0;
        let booted = patiently(&format!("{name} is up"), limit, || {
            starter.ensure_running()?;
            pid = child_of(starter.pid())?;
            is_ready(pid)
        });
        booted.with_context(|| starter.tail())?;
        Ok(Self { init: PidFd::open(pid)?, pid, starter, cgroup, netns: Arc::clone(netns) })
    }

    /// Returns the pid of its first process, as seen from outside.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn netns(&self) -> &Arc<NetNs> {
        &self.netns
    }

    /// Runs a command line, split at blanks, and gives its standard output.
    pub(crate) fn exec(&self, line: &str) -> Result<String> {
        enter(self.pid, line)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let mut errors = Errors::default();
        // The first process of a namespace takes all others with it.
        errors.collect(self.init.signal(Signal::SIGKILL));
        errors.collect(self.starter.wait(END_LIMIT));
        errors.collect(self.cgroup.remove());
        if let Err(error) = errors.into_result() {
            eprintln!("test bed: {error:#}");
        }
    }
}

/// Returns the first child of a process.
pub(crate) fn child_of(pid: u32) -> Result<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let child = children.split_whitespace().next().context("it has no first process yet")?;
    Ok(child.parse()?)
}

/// Returns a file of the container whose first process has this pid, seen from outside.
pub(crate) fn path_in(pid: u32, path: &str) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join("root").join(path.trim_start_matches('/'))
}

/// Prepares the entry into all namespaces of a container's process. The program's name and arguments follow.
pub(crate) fn entry(pid: u32) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--all", "--root", "--wd", "--target", &pid.to_string()]);
    command
}

/// Runs a command line, split at blanks, in a container and gives its standard output.
pub(crate) fn enter(pid: u32, line: &str) -> Result<String> {
    let mut words = line.split_whitespace().peekable();
    ensure!(words.peek().is_some(), "the command line is empty");
    finish(entry(pid).args(words), "", COMMAND_LIMIT)
}
