//! Flags and environment of a node daemon before its start.

use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::refusal::{self, Refusal};
use super::{Agent, agent_binary};
use crate::clock::Clock;
use crate::cluster::Node;
use crate::etcd::Etcd;
use crate::executable;
use crate::netns::NetNs;
use crate::store::Datastore;
use crate::workdir::Workdir;

/// Flags, environment and program of a node daemon.
#[derive(Debug)]
pub struct AgentBuilder {
    node: String,
    start: Start,
    bpffs: Result<PathBuf, String>,
    wants_bpffs: bool,
    workdir: Arc<Workdir>,
}

/// Everything needed to start the daemon, the first time and again.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) name: String,
    pub(super) netns: Arc<NetNs>,
    pub(super) program: Option<PathBuf>,
    pub(super) wrapper: Vec<String>,
    pub(super) refusals: Vec<Refusal>,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) subnet_file: PathBuf,
    pub(super) log: PathBuf,
    pub(super) socket: PathBuf,
}

impl AgentBuilder {
    pub(super) fn new(node: &Node) -> Self {
        let subnet_file = node.subnet_file();
        let start = Start {
            name: format!("the agent of {}", node.name()),
            netns: Arc::clone(node.netns()),
            program: None,
            wrapper: Vec::new(),
            refusals: Vec::new(),
            args: vec![format!("--subnet-file={}", subnet_file.display())],
            env: Vec::new(),
            subnet_file,
            log: node.dir().join("agent.log"),
            socket: node.dir().join("notify"),
        };
        let bpffs = node.bpffs().map(ToOwned::to_owned).map_err(|error| format!("{error:#}"));
        Self {
            node: node.name().to_owned(),
            start,
            bpffs,
            wants_bpffs: true,
            workdir: Arc::clone(&node.workdir),
        }
    }

    /// Uses this etcd server.
    pub fn etcd(self, etcd: &Etcd) -> Self {
        self.store(etcd)
    }

    /// Uses this datastore.
    pub fn store(self, store: &dyn Datastore) -> Self {
        let environment = store.environment(&self.node);
        let builder = store.flags().into_iter().fold(self, Self::arg);
        environment.into_iter().fold(builder, |builder, (key, value)| builder.env(key, value))
    }

    /// Gives it a subnet file and a log by this name, for one of several networks of the node.
    pub fn for_network(mut self, name: &str) -> Self {
        let file = |kind| self.start.subnet_file.with_file_name(format!("{name}.{kind}"));
        let (subnet_file, log, socket) = (file("env"), file("log"), file("notify"));
        self.start.name = format!("{} in the network {name}", self.start.name);
        self.start.args.retain(|arg| !arg.starts_with("--subnet-file="));
        self.start.args.push(format!("--subnet-file={}", subnet_file.display()));
        self.start = Start { subnet_file, log, socket, ..self.start };
        self
    }

    /// Adds a flag: `--ip-masq`, `--dataplane=netlink`.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.start.args.push(arg.into());
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.start.env.push((key.into(), value.into()));
        self
    }

    /// Makes it use this clock.
    pub fn clock(self, clock: &Clock) -> Self {
        clock.environment().into_iter().fold(self, |builder, (key, value)| builder.env(key, value))
    }

    /// Leaves out the flag `--bpffs`.
    pub fn without_bpffs(mut self) -> Self {
        self.wants_bpffs = false;
        self
    }

    /// Starts this program instead of the agent built here.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.start.program = Some(program.into());
        self
    }

    /// Starts it without some of root's capabilities: `sys_admin`, `bpf`.
    pub fn without_capabilities(mut self, names: &[&str]) -> Self {
        let removed: Vec<_> = names.iter().map(|name| format!("-{name}")).collect();
        self.start.wrapper = vec!["setpriv".to_owned(), format!("--bounding-set={}", removed.join(","))];
        self
    }

    /// Starts it with these of root's capabilities alone: `net_admin`, `bpf`.
    pub fn with_capabilities(mut self, names: &[&str]) -> Self {
        let kept: Vec<_> = names.iter().map(|name| format!("+{name}")).collect();
        let set = format!("--bounding-set=-all,{}", kept.join(","));
        self.start.wrapper.extend(["setpriv".to_owned(), set]);
        self
    }

    /// Starts it as a user without privileges, with these capabilities as ambient ones: `net_admin`, `bpf`. Gives the user the
    /// node's folder.
    pub fn as_user(mut self, user: u32, names: &[&str]) -> Result<Self> {
        let dir = self.start.subnet_file.parent().context("the folder of the subnet file")?;
        chown(dir, Some(user), Some(user)).with_context(|| format!("give {} to {user}", dir.display()))?;
        // The folder of the one that was built may be closed to other users.
        let program = dir.join("flannel-agent");
        if !program.exists() {
            executable::copy(&agent_binary()?, &program)?;
        }
        let kept: Vec<_> = names.iter().map(|name| format!("+{name}")).collect();
        let set = format!("-all,{}", kept.join(","));
        let flags = ["inh-caps", "ambient-caps", "bounding-set"].map(|flag| format!("--{flag}={set}"));
        let user = ["reuid", "regid"].map(|flag| format!("--{flag}={user}"));
        let rest = ["--clear-groups", "--no-new-privs"].map(str::to_owned);
        self.start.wrapper.push("setpriv".to_owned());
        self.start.wrapper.extend(user.into_iter().chain(rest).chain(flags));
        Ok(self.program(program))
    }

    /// Starts it by this script of the shell, which has to end with `exec "$@"`.
    pub fn by_script(mut self, script: &str) -> Self {
        self.start.wrapper.splice(0..0, ["sh", "-c", script, "sh"].map(str::to_owned));
        self
    }

    /// Starts it with a read-only /proc/sys, as unprivileged containers have.
    pub fn read_only_sysctls(mut self) -> Self {
        const SCRIPT: &str =
            "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec \"$@\"";
        let outer = ["unshare", "--mount", "sh", "-c", SCRIPT, "sh"].map(str::to_owned);
        self.start.wrapper.splice(0..0, outer);
        self
    }

    /// Starts it as on a kernel without tcx (before 6.6).
    pub fn without_tcx(mut self) -> Self {
        self.start.refusals.push(Refusal::LINKS);
        self
    }

    /// Starts a real flanneld instead, as a peer; it knows only flannel's own flags.
    pub fn flanneld(self, program: impl Into<PathBuf>) -> Self {
        self.program(program).without_bpffs()
    }

    /// Starts it. [`Agent::wait_ready`] waits until it is ready.
    pub fn start(mut self) -> Result<Agent> {
        if self.wants_bpffs {
            let bpffs = self.bpffs.map_err(anyhow::Error::msg)?;
            self.start.args.push(format!("--bpffs={}", bpffs.display()));
        }
        Agent::launch(self.start, self.workdir)
    }
}

impl Start {
    pub(super) fn command(&self) -> Result<Command> {
        let program = self.program.clone().map_or_else(agent_binary, Ok)?;
        let mut words = self.wrapper.iter().map(Into::into).chain([program.into_os_string()]);
        let mut command = self.netns.command(words.next().unwrap_or_default());
        command.args(words).args(&self.args).env("NOTIFY_SOCKET", &self.socket);
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        self.refusals.iter().for_each(|refusal| refusal::refuse(&mut command, *refusal));
        Ok(command)
    }
}
