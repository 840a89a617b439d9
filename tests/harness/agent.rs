//! Node daemons under test.

mod binary;
mod builder;
mod notify;
mod refusal;

use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::clock::Clock;
use crate::cluster::Node;
use crate::process::Daemon;
use crate::subnet_env::SubnetEnv;
use crate::wait::patience;
use crate::workdir::Workdir;
pub use binary::{agent_binary, named_agent};
pub use builder::AgentBuilder;
use builder::Start;
use notify::Notify;
pub use refusal::Refusal;

const READY_LIMIT: Duration = Duration::from_secs(20);
/// Interval of asking whether a starting daemon still runs.
const PAUSE: Duration = Duration::from_millis(20);
const TERM_LIMIT: Duration = Duration::from_secs(5);

/// Returns the command line of a subcommand of the agent, with the node's files.
pub fn subcommand(node: &Node, name: &str) -> Result<Command> {
    let mut command = node.netns().command(agent_binary()?);
    command.arg(name).arg("--subnet-file").arg(node.subnet_file()).arg("--bpffs").arg(node.bpffs()?);
    Ok(command)
}

/// A running node daemon. Dropping it kills it. If the test failed, this also prints the end of its log.
#[derive(Debug)]
pub struct Agent {
    daemon: Daemon,
    notify: Notify,
    start: Start,
    _workdir: Arc<Workdir>,
}

impl Agent {
    /// Prepares an agent for a node, with the node's files and without a datastore.
    pub fn builder(node: &Node) -> AgentBuilder {
        AgentBuilder::new(node)
    }

    fn launch(start: Start, workdir: Arc<Workdir>) -> Result<Self> {
        let notify = Notify::bind(&start.socket)?;
        let daemon = Daemon::start(&start.name, start.command()?, &start.log)?;
        Ok(Self { daemon, notify, start, _workdir: workdir })
    }

    /// Waits until it has reported readiness as to systemd, then reads its `subnet.env`.
    pub fn wait_ready(&mut self) -> Result<SubnetEnv> {
        let Self { daemon, notify, start, .. } = self;
        let began = Instant::now();
        while !notify.is_ready_within(PAUSE)? {
            daemon.ensure_running()?;
            if began.elapsed() >= patience(READY_LIMIT) {
                bail!("{} has not sent READY=1 after {:?}: {}", start.name, began.elapsed(), daemon.tail());
            }
        }
        SubnetEnv::read(&start.subnet_file)
    }

    /// Returns the last status line read so far, which `systemctl status` would show.
    pub fn status(&self) -> &str {
        self.notify.status().unwrap_or("")
    }

    /// Reads new messages and returns the last status line.
    pub fn latest_status(&mut self) -> Result<&str> {
        self.notify.listen()?;
        Ok(self.status())
    }

    /// Waits for a status line that fits; returns as soon as it has come.
    pub fn wait_status(&mut self, wanted: impl Fn(&str) -> bool, limit: Duration) -> Result<()> {
        self.notify.wait_for(wanted, limit).with_context(|| self.daemon.tail())
    }

    /// Fails, with the end of its log, if it has ended.
    pub fn ensure_running(&mut self) -> Result<()> {
        self.daemon.ensure_running()
    }

    /// Sends SIGTERM and waits until it has ended.
    pub fn term(&mut self) -> Result<ExitStatus> {
        self.daemon.signal(Signal::SIGTERM)?;
        self.wait_exit(TERM_LIMIT)
    }

    /// Waits until it ends by itself.
    pub fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.daemon.wait(limit)
    }

    /// Kills it with SIGKILL, as the kernel does when memory runs out.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.kill()
    }

    /// Makes the kernel refuse this, and nothing else, from the next start on.
    pub fn set_refusals(&mut self, refusals: &[Refusal]) {
        self.start.refusals = refusals.to_vec();
    }

    /// Makes it use this clock, or the machine's, from the next start on.
    pub fn set_clock(&mut self, clock: Option<&Clock>) {
        self.start.env.retain(|(name, _)| !Clock::VARIABLES.contains(&name.as_str()));
        let variables = clock.into_iter().flat_map(Clock::environment);
        self.start.env.extend(variables.map(|(name, value)| (name.to_owned(), value)));
    }

    /// Kills it if it runs, starts it again with the same flags, and waits until it is ready.
    pub fn restart(&mut self) -> Result<SubnetEnv> {
        self.restart_with(|_| {})
    }

    /// [`Agent::restart`] with other flags.
    pub fn restart_with(&mut self, change: impl FnOnce(&mut Vec<String>)) -> Result<SubnetEnv> {
        change(&mut self.start.args);
        self.start_again()?;
        self.wait_ready()
    }

    /// Kills it if it runs, starts it again, and kills it after this time, whatever it does by then.
    pub fn restart_and_kill_after(&mut self, time: Duration) -> Result<()> {
        self.start_again()?;
        thread::sleep(time);
        self.kill()
    }

    /// Kills it if it runs, and starts it again with the same flags.
    pub fn start_again(&mut self) -> Result<()> {
        self.kill()?;
        self.notify = Notify::bind(&self.start.socket)?;
        self.daemon = Daemon::start(&self.start.name, self.start.command()?, &self.start.log)?;
        Ok(())
    }

    /// Ends it, and removes from its node what it has set up there (`flannel-agent cleanup`). Its lease stays, and with it the subnet.
    pub fn clean_up(&mut self) -> Result<()> {
        self.term()?;
        let Start { netns, program, args, subnet_file, .. } = &self.start;
        let mut command = netns.command(program.clone().map_or_else(agent_binary, Ok)?);
        command.arg("cleanup").arg("--subnet-file").arg(subnet_file);
        let output = command.args(args.iter().filter(|arg| arg.starts_with("--bpffs="))).output()?;
        ensure!(
            output.status.success(),
            "flannel-agent cleanup: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.daemon.signal(signal)
    }

    /// Returns its process ID.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Returns all its output since the first start, standard output and standard error.
    pub fn log(&self) -> String {
        self.daemon.log()
    }
}
