//! Processes of a cluster that tests stop and start again, also from another process than the one that made the cluster.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use crate::container::child_of;
use crate::executable;
use crate::netns::NetNs;
use crate::owner::is_alive;
use crate::process::PidFd;

const END_LIMIT: Duration = Duration::from_secs(10);
/// Lines of a log in an error.
const TAIL: usize = 30;

/// A process. Its command line is the script `NAME.sh` in a folder of the cluster; `NAME.pid` and `NAME.log` are beside it.
/// It ends with the namespaces it runs in.
#[derive(Debug, Clone)]
pub(super) struct Service {
    folder: PathBuf,
    name: String,
    inside: bool,
}

impl Service {
    /// Writes the script of a process that runs with the namespaces of the machine.
    pub(super) fn outside(folder: &Path, name: &str, words: &[String]) -> Result<Self> {
        let service = Self::find(folder, name, false);
        service.write(&[], words)?;
        Ok(service)
    }

    /// Writes the script of a process inside a node. It first joins these cgroups, then enters the namespaces of the node's
    /// first process.
    pub(super) fn inside(
        folder: &Path,
        name: &str,
        (cgroups, first): (&[PathBuf], u32),
        words: &[String],
    ) -> Result<Self> {
        let service = Self::find(folder, name, true);
        let joins: Vec<_> =
            cgroups.iter().map(|cgroup| format!("echo $$ > {}/cgroup.procs", cgroup.display())).collect();
        let enter = format!("nsenter --all --root --wd --target {first} --");
        let words: Vec<_> = enter.split(' ').map(str::to_owned).chain(words.iter().cloned()).collect();
        service.write(&joins, &words)?;
        Ok(service)
    }

    /// Returns a service whose script was written before.
    pub(super) fn find(folder: &Path, name: &str, inside: bool) -> Self {
        Self { folder: folder.to_owned(), name: name.to_owned(), inside }
    }

    fn write(&self, before: &[String], words: &[String]) -> Result<()> {
        let words: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
        let script = format!(
            "#!/bin/sh\nset -e\n{}\necho $$ > {}\nexec {}\n",
            before.join("\n"),
            self.file("pid").display(),
            words.join(" \\\n    ")
        );
        executable::script(&self.file("sh"), &script)
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.folder.join(format!("{}.{extension}", self.name))
    }

    /// Starts the process in a network namespace.
    pub(super) fn start(&self, netns: &NetNs) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(self.file("log"))?;
        let mut command = netns.command(self.file("sh"));
        // In its own process group, so that Ctrl-C reaches only the program that holds the cluster.
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let _ = fs::remove_file(self.file("pid"));
        let mut child = command.spawn().with_context(|| format!("start {}", self.name))?;
        // Collects its status whenever it ends. Ending it is done by pid, from any process.
        thread::spawn(move || child.wait());
        Ok(())
    }

    /// Kills the process and waits until it has ended.
    pub(super) fn stop(&self) -> Result<()> {
        let outer = self.pid()?;
        let waited = PidFd::open(outer)?;
        let killed = if self.inside { PidFd::open(child_of(outer)?)? } else { PidFd::open(outer)? };
        killed.signal(Signal::SIGKILL)?;
        waited.wait(END_LIMIT).with_context(|| format!("stop {}", self.name))
    }

    fn pid(&self) -> Result<u32> {
        let file = self.file("pid");
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        Ok(text.trim().parse()?)
    }

    /// Fails, with the end of the log, if the process has ended.
    pub(super) fn ensure_running(&self) -> Result<()> {
        ensure!(is_alive(self.pid()?), "{} has ended\n{}", self.name, self.tail());
        Ok(())
    }

    /// Returns the end of the log.
    pub(super) fn tail(&self) -> String {
        let log = String::from_utf8_lossy(&fs::read(self.file("log")).unwrap_or_default()).into_owned();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
        format!("--- the end of {}\n{tail}\n---", self.file("log").display())
    }
}
