//! The command line: flanneld's flags and `FLANNELD_*` variables, the agent's own flags, and subcommands.

mod flanneld;
mod groups;

use std::ffi::OsString;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use self::flanneld::{has_value, like_flanneld, two_dashes, without_empty_variable};
pub use self::groups::{
    CloudFlags, DataplaneFlags, EtcdFlags, FirewallFlags, HealthFlags, KubeFlags, LeaseFlags, LogFlags,
    UplinkFlags,
};
use crate::check::CheckNode;
use crate::cleanup::Cleanup;
use crate::cni::Cni;
use crate::cni::install::InstallCni;
use crate::config::{DataplaneMode, XdpMode};
use crate::counters::ShowCounters;
use crate::docker_opts::DockerOpts;
use crate::flows::ShowFlows;
use crate::monitor::Monitor;
use crate::paths::Paths;
use crate::prepare_node::PrepareNode;
use crate::status::{ShowLeases, ShowPeers, ShowStatus};
use crate::trace::Trace;

/// Node daemon of a flannel network: leases a pod subnet and carries packets between its pods and those of
/// other nodes.
///
/// A flag may have one dash or two, and its value may follow a space or an equals sign. Each flag is also an
/// environment variable: FLANNELD_ and its name in upper case, with underscores. A flag takes precedence over
/// its variable.
#[derive(Clone, Debug, Parser)]
#[command(name = "flannel-agent", version, max_term_width = 100, args_conflicts_with_subcommands = true)]
#[command(mut_args = like_flanneld)]
pub struct Flags {
    /// A subcommand; `None` runs the daemon.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How leases are stored.
    #[command(flatten)]
    pub leases: LeaseFlags,
    /// Access to etcd.
    #[command(flatten)]
    pub etcd: EtcdFlags,
    /// Subnets from Kubernetes.
    #[command(flatten)]
    pub kube: KubeFlags,
    /// The interface that carries packets between nodes.
    #[command(flatten)]
    pub uplink: UplinkFlags,
    /// How packets are carried.
    #[command(flatten)]
    pub dataplane: DataplaneFlags,
    /// Firewall rules and routes for pods.
    #[command(flatten)]
    pub firewall: FirewallFlags,
    /// Routes in a cloud's network.
    #[command(flatten)]
    pub cloud: CloudFlags,
    /// Where the agent keeps its state.
    #[command(flatten)]
    pub paths: Paths,
    /// The endpoint for health checks and metrics.
    #[command(flatten)]
    pub health: HealthFlags,
    /// The log.
    #[command(flatten)]
    pub log: LogFlags,
}

/// The subcommands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Writes subnet.env as options for the Docker daemon, as flannel's mk-docker-opts.sh does.
    DockerOpts(DockerOpts),
    /// Shows whether this node works, how, and if not why. The agent need not run.
    ///
    /// Exit status: 0 if all is well, 1 if packets are carried and something is not as it should be, 2 if they are not carried.
    Status(ShowStatus),
    /// Finds what is wrong around the agent on this node, and says what to do: settings, rules, devices, and what reaches the other nodes.
    ///
    /// Exit status: 0 if there is nothing worse than a note, 1 with warnings, 2 with errors.
    Check(CheckNode),
    /// Lists the other nodes: subnet, public address, MAC, and the way of packets to them.
    Peers(ShowPeers),
    /// Lists the leases that this node knows, as the datastore has them, and when each ends.
    Leases(ShowLeases),
    /// Lists the flows of this node's pods that the BPF programs know, and how they take the shortcut past the host stack.
    Flows(ShowFlows),
    /// Shows how many packets the BPF programs have seen on this node, and what became of them.
    Counters(ShowCounters),
    /// Shows what happens on this node, as it happens: drops, misses, flows, peers, repairs, problems.
    ///
    /// A line for each, until Ctrl-C; times are UTC. The running agent tells it. Of packets it tells at most 50 a second and CPU; further
    /// ones are counted. Without an agent, flows and counted packets are shown.
    Monitor(Monitor),
    /// Removes from this node what the agent has set up. The datastore is not changed.
    Cleanup(Cleanup),
    /// Does what takes more privileges than the agent has in its pod: mounts the BPF filesystem, and prepares the
    /// connection tracker for the flow cache.
    PrepareNode(PrepareNode),
    /// Is the CNI plugin `flannel`, as the binary is under that name. Container runtimes call it.
    Cni(Cni),
    /// Installs the CNI plugin and its conflist on this node, or removes them.
    InstallCni(InstallCni),
    /// Shows where a packet would go from here, and why: which BPF programs handle it and how, or which
    /// routes, neighbours and FDB entries of the kernel decide. It sends nothing and changes nothing.
    ///
    /// On the node of --src it follows the packet out; on the node of --dst it follows the packet in.
    Trace(Trace),
}

impl Flags {
    /// Parses a command line, program name first.
    ///
    /// # Errors
    /// A wrong command line, or a request for help or the version. clap's error prints itself.
    pub fn parse_from_go(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut command = Self::command()
            .mut_args(without_empty_variable)
            .mut_subcommands(|subcommand| subcommand.mut_args(without_empty_variable));
        let args: Vec<_> = args.into_iter().collect();
        let is_subcommand = args.get(1).is_some_and(|first| command.find_subcommand(first).is_some());
        let matches = if is_subcommand {
            command.try_get_matches_from_mut(args)
        } else {
            command.try_get_matches_from_mut(args.into_iter().filter(has_value).map(two_dashes))
        };
        let matches = matches?;
        let mut flags = Self::from_arg_matches(&matches)?;
        flags.etcd.password_is_shown =
            matches.value_source("etcd_password") == Some(ValueSource::CommandLine);
        match flags.contradiction() {
            Some(message) => Err(command.error(ErrorKind::ArgumentConflict, message)),
            None => Ok(flags),
        }
    }

    /// Finds flags that contradict each other. clap's `conflicts_with` and `requires` do not help: they take
    /// `--kube-subnet-mgr=false` and an empty text for a choice.
    fn contradiction(&self) -> Option<&'static str> {
        let Self { leases, etcd, kube, dataplane, .. } = self;
        let contradictions = [
            (
                leases.local_subnet_mgr.is_some() && kube.kube_subnet_mgr,
                "choose one datastore: --local-subnet-mgr or --kube-subnet-mgr",
            ),
            (
                etcd.etcd_certfile.is_empty() != etcd.etcd_keyfile.is_empty(),
                "--etcd-certfile and --etcd-keyfile belong together: give both",
            ),
            (
                etcd.etcd_username.is_empty() && !etcd.etcd_password.is_empty(),
                "--etcd-password is given without --etcd-username",
            ),
            (
                etcd.etcd_username.is_empty() && !etcd.etcd_password_file.is_empty(),
                "--etcd-password-file is given without --etcd-username",
            ),
            (
                !etcd.etcd_password.is_empty() && !etcd.etcd_password_file.is_empty(),
                "choose one place of the password: --etcd-password or --etcd-password-file",
            ),
            (
                dataplane.dataplane == Some(DataplaneMode::Netlink)
                    && matches!(dataplane.xdp, Some(XdpMode::Native | XdpMode::Generic)),
                "--xdp needs BPF, which --dataplane=netlink turns off",
            ),
        ];
        contradictions.into_iter().find_map(|(found, message)| found.then_some(message))
    }

    /// Returns how long before its end the lease is renewed.
    #[must_use]
    pub const fn renew_margin(&self) -> Duration {
        Duration::from_secs(60 * self.leases.subnet_lease_renew_margin)
    }

    /// Returns for how long leases that vanish together are held.
    #[must_use]
    pub const fn lease_hold(&self) -> Duration {
        Duration::from_secs(self.leases.lease_hold)
    }

    /// Returns how often the other nodes are asked whether they can be reached; zero for never.
    #[must_use]
    pub const fn probe_interval(&self) -> Duration {
        Duration::from_secs(self.health.probe_interval)
    }
}

#[cfg(test)]
mod command_lines;

#[cfg(test)]
mod tests;
