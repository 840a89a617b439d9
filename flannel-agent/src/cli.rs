//! The command line: flanneld's flags and `FLANNELD_*` variables, and our own.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{BoolishValueParser, Resettable};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use regex::Regex;

use crate::cleanup::Cleanup;
use crate::config::{DataplaneMode, XdpMode};
use crate::docker_opts::DockerOpts;
use crate::paths::Paths;
use crate::trace::Trace;

/// A node's share of the overlay network: takes a pod subnet and makes it reach the others.
///
/// Every flag may be written with one dash or two, with its value behind a space or an equals sign, and may
/// be given as environment variable FLANNELD_ + upper case with underscores; a flag wins over the variable.
#[derive(Clone, Debug, Parser)]
#[command(name = "flannel-agent", version, max_term_width = 100, args_conflicts_with_subcommands = true)]
pub struct Flags {
    /// Something else to do than being the node's daemon.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// etcd endpoints, separated by commas.
    #[arg(
        long,
        env = "FLANNELD_ETCD_ENDPOINTS",
        value_delimiter = ',',
        value_name = "URLS",
        default_value = "http://127.0.0.1:4001,http://127.0.0.1:2379"
    )]
    pub etcd_endpoints: Vec<String>,
    /// etcd folder of the network: its key `config`, its leases below `subnets/`.
    #[arg(long, env = "FLANNELD_ETCD_PREFIX", value_name = "KEY", default_value = "/coreos.com/network")]
    pub etcd_prefix: String,
    /// Key of the client certificate for etcd (PEM file).
    #[arg(
        long,
        env = "FLANNELD_ETCD_KEYFILE",
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    pub etcd_keyfile: String,
    /// Client certificate for etcd (PEM file).
    #[arg(
        long,
        env = "FLANNELD_ETCD_CERTFILE",
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    pub etcd_certfile: String,
    /// Certificate authorities of etcd (PEM file). Default: the system's.
    #[arg(
        long,
        env = "FLANNELD_ETCD_CAFILE",
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    pub etcd_cafile: String,
    /// etcd user.
    #[arg(
        long,
        env = "FLANNELD_ETCD_USERNAME",
        value_name = "USER",
        default_value = "",
        hide_default_value = true
    )]
    pub etcd_username: String,
    /// Password of the etcd user. Others see it in the list of processes; in the variable they do not.
    #[arg(
        long,
        env = "FLANNELD_ETCD_PASSWORD",
        value_name = "PASSWORD",
        default_value = "",
        hide_default_value = true,
        hide_env_values = true
    )]
    pub etcd_password: String,

    /// Uplink, by interface name or address; repeat to try several in order. Default: the default route's.
    #[arg(long, env = "FLANNELD_IFACE", value_delimiter = ',', value_name = "NAME|ADDRESS")]
    pub iface: Vec<String>,
    /// Uplink, by regular expression on address or name, of which one may fit; repeat to try several in order.
    #[arg(long, env = "FLANNELD_IFACE_REGEX", value_name = "REGEX")]
    pub iface_regex: Vec<Regex>,
    /// Uplink, by an address that is reached through it.
    #[arg(long, env = "FLANNELD_IFACE_CAN_REACH", value_name = "ADDRESS")]
    pub iface_can_reach: Option<IpAddr>,
    /// IPv4 address that peers send to, if not the uplink's own.
    #[arg(long, env = "FLANNELD_PUBLIC_IP", value_name = "ADDRESS")]
    pub public_ip: Option<Ipv4Addr>,
    /// IPv6 address that peers send to, if not the uplink's own.
    #[arg(long, env = "FLANNELD_PUBLIC_IPV6", value_name = "ADDRESS")]
    pub public_ipv6: Option<Ipv6Addr>,

    /// Where the agent keeps its state.
    #[command(flatten)]
    pub paths: Paths,
    /// Minutes before its end at which the lease is renewed.
    #[arg(long, env = "FLANNELD_SUBNET_LEASE_RENEW_MARGIN", value_name = "MINUTES", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=1439))]
    pub subnet_lease_renew_margin: u64,

    /// Network configuration file in Kubernetes.
    #[arg(
        long,
        env = "FLANNELD_NET_CONFIG_PATH",
        value_name = "FILE",
        default_value = "/etc/kube-flannel/net-conf.json"
    )]
    pub net_config_path: PathBuf,
    /// Keep config and leases as files in this folder instead of etcd: DIR/config, DIR/subnets/10.5.52.0-24, with
    /// the texts that etcd would have. A file that nobody may write (-r--r--r--) is an agent's lease and ends 24 h
    /// after the time that ls -l shows; one that can be written (-rw-r--r--) is your reservation and never ends.
    #[arg(long, env = "FLANNELD_LOCAL_SUBNET_MGR", value_name = "DIR")]
    pub local_subnet_mgr: Option<PathBuf>,
    /// Take subnets from Kubernetes instead of etcd.
    #[arg(long, env = "FLANNELD_KUBE_SUBNET_MGR", num_args = 0..=1, require_equals = true, action = ArgAction::Set,
          default_value_t = false, default_missing_value = "true", value_name = "BOOL", value_parser = BoolishValueParser::new())]
    pub kube_subnet_mgr: bool,
    /// Kubernetes API server.
    #[arg(
        long,
        env = "FLANNELD_KUBE_API_URL",
        value_name = "URL",
        default_value = "",
        hide_default_value = true
    )]
    pub kube_api_url: String,
    /// kubeconfig file.
    #[arg(
        long,
        env = "FLANNELD_KUBECONFIG_FILE",
        value_name = "FILE",
        default_value = "",
        hide_default_value = true
    )]
    pub kubeconfig_file: String,
    /// Prefix of the node annotations.
    #[arg(
        long,
        env = "FLANNELD_KUBE_ANNOTATION_PREFIX",
        value_name = "PREFIX",
        default_value = "flannel.alpha.coreos.com"
    )]
    pub kube_annotation_prefix: String,
    /// Whether to clear the node's NetworkUnavailable condition.
    #[arg(long, env = "FLANNELD_SET_NODE_NETWORK_UNAVAILABLE", num_args = 0..=1, require_equals = true,
          action = ArgAction::Set, default_value_t = true, default_missing_value = "true", value_name = "BOOL", value_parser = BoolishValueParser::new())]
    pub set_node_network_unavailable: bool,

    /// Masquerade traffic that leaves the overlay.
    #[arg(long, env = "FLANNELD_IP_MASQ", num_args = 0..=1, require_equals = true, action = ArgAction::Set,
          default_value_t = false, default_missing_value = "true", value_name = "BOOL", value_parser = BoolishValueParser::new())]
    pub ip_masq: bool,
    /// Masquerade without random source ports.
    #[arg(long, env = "FLANNELD_IP_MASQ_FULLY_RANDOM_DISABLE", num_args = 0..=1, require_equals = true,
          action = ArgAction::Set, default_value_t = false, default_missing_value = "true", value_name = "BOOL", value_parser = BoolishValueParser::new())]
    pub ip_masq_fully_random_disable: bool,
    /// Drop what is sent to our subnet with a blackhole route, for pods without a bridge (Canal).
    #[arg(long, env = "FLANNELD_IP_BLACKHOLE_ROUTE", num_args = 0..=1, require_equals = true,
          action = ArgAction::Set, default_value_t = false, default_missing_value = "true", value_name = "BOOL", value_parser = BoolishValueParser::new())]
    pub ip_blackhole_route: bool,
    /// Seconds between checks of the firewall rules.
    #[arg(long, env = "FLANNELD_IPTABLES_RESYNC", value_name = "SECONDS", default_value_t = 5)]
    pub iptables_resync: u64,
    /// Accept forwarded overlay traffic in the firewall.
    #[arg(long, env = "FLANNELD_IPTABLES_FORWARD_RULES", num_args = 0..=1, require_equals = true,
          action = ArgAction::Set, default_value_t = true, default_missing_value = "true", value_name = "BOOL", value_parser = BoolishValueParser::new())]
    pub iptables_forward_rules: bool,

    /// Address of the health endpoint.
    #[arg(long, env = "FLANNELD_HEALTHZ_IP", value_name = "ADDRESS", default_value = "0.0.0.0")]
    pub healthz_ip: String,
    /// Port of the health endpoint; 0 is off.
    #[arg(long, env = "FLANNELD_HEALTHZ_PORT", value_name = "PORT", default_value_t = 0)]
    pub healthz_port: u16,

    /// Verbosity: 0 says what changes, 2 says why, 6 shows every packet that a BPF program meets.
    #[arg(short = 'v', long = "v", env = "FLANNELD_V", value_name = "LEVEL", default_value_t = 0)]
    pub verbosity: u8,
    /// Accepted for flanneld's sake; has no effect.
    #[arg(long, env = "FLANNELD_VMODULE", value_name = "PATTERNS", hide = true)]
    pub vmodule: Option<String>,
    /// Accepted for flanneld's sake; has no effect.
    #[arg(long = "log_backtrace_at", env = "FLANNELD_LOG_BACKTRACE_AT", value_name = "PLACE", hide = true)]
    pub log_backtrace_at: Option<String>,

    /// Who moves packets. auto: BPF if it loads, else the kernel's vxlan device. bpf: fail rather than fall
    /// back. netlink: the kernel's vxlan device alone. Default: the network's Backend.Dataplane, else auto.
    #[arg(long, env = "FLANNELD_DATAPLANE", value_name = "MODE")]
    pub dataplane: Option<DataplaneMode>,
    /// Whether flows that the host stack lets through unchanged skip it, with BPF. The stack is asked again
    /// every 10 s. Default: the network's Backend.FlowCache, else true.
    #[arg(long, env = "FLANNELD_FLOW_CACHE", num_args = 0..=1, require_equals = true, action = ArgAction::Set,
          default_missing_value = "true", value_name = "BOOL")]
    pub flow_cache: Option<bool>,
    /// Whether outer headers are taken off before the kernel makes aggregates (XDP), with BPF. auto: in drivers of
    /// real NICs that can. native: in the driver. generic: behind it, slowly. Where the interface refuses, TC takes
    /// them off. Default: the network's Backend.XDP, else auto.
    #[arg(long, env = "FLANNELD_XDP", value_name = "MODE")]
    pub xdp: Option<XdpMode>,
}

/// What the program can do beside being the daemon.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Writes subnet.env as options for the Docker daemon, as flannel's mk-docker-opts.sh does.
    DockerOpts(DockerOpts),
    /// Removes every trace of the agent from this node; the datastore is not touched.
    Cleanup(Cleanup),
    /// Says where a packet would go from here, and why: which BPF program takes it and what it makes of it, or what the
    /// kernel's routes, neighbours and FDB entries do with it. Nothing is sent, and the node does not notice.
    ///
    /// Ask on the node of --src, and the packet is followed out; ask on the node of --dst, and it is followed in.
    Trace(Trace),
}

impl Flags {
    /// Parses a command line, program name first.
    ///
    /// # Errors
    /// Help and version that were asked for, and what is wrong; clap's error prints itself.
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
        let flags = Self::from_arg_matches(&matches?)?;
        match flags.contradiction() {
            Some(said) => Err(command.error(ErrorKind::ArgumentConflict, said)),
            None => Ok(flags),
        }
    }

    /// Not clap's `conflicts_with` and `requires`: `--kube-subnet-mgr=false` is no choice, and an empty text is none.
    fn contradiction(&self) -> Option<&'static str> {
        let said = [
            (
                self.local_subnet_mgr.is_some() && self.kube_subnet_mgr,
                "choose one datastore: --local-subnet-mgr or --kube-subnet-mgr",
            ),
            (
                self.etcd_certfile.is_empty() != self.etcd_keyfile.is_empty(),
                "--etcd-certfile and --etcd-keyfile are a pair: give both",
            ),
            (
                self.etcd_username.is_empty() && !self.etcd_password.is_empty(),
                "--etcd-password is given, and --etcd-username is not",
            ),
            (
                self.dataplane == Some(DataplaneMode::Netlink)
                    && matches!(self.xdp, Some(XdpMode::Native | XdpMode::Generic)),
                "--xdp needs BPF, and --dataplane=netlink does without",
            ),
        ];
        said.into_iter().find_map(|(wrong, said)| wrong.then_some(said))
    }

    /// Flags that were given and that this version does not act on. Going on without them would be a
    /// different network from the one that was asked for.
    #[must_use]
    pub fn unsupported(&self) -> Vec<&'static str> {
        let given = [("kube-subnet-mgr", self.kube_subnet_mgr)];
        given.into_iter().filter_map(|(flag, given)| given.then_some(flag)).collect()
    }

    /// The log filter that the verbosity stands for (klog's levels: 0 info, 2 and up debug, 6 and up trace). What
    /// `netlink_proto` warns of is a listener that we have closed ourselves.
    #[must_use]
    pub const fn log_level(&self) -> &'static str {
        match self.verbosity {
            0 | 1 => "netlink_proto=error,info",
            2..=5 => "flannel_agent=debug,netlink_proto=error,info",
            _ => "flannel_agent=trace,flannel_ebpf=debug,info",
        }
    }

    /// How long before its end the lease is renewed.
    #[must_use]
    pub const fn renew_margin(&self) -> Duration {
        Duration::from_secs(60 * self.subnet_lease_renew_margin)
    }

    /// Whether BPF programs log every run.
    #[must_use]
    pub const fn log_packets(&self) -> bool {
        self.verbosity >= 6
    }
}

/// flanneld takes an empty variable for none, as unit files with `EnvironmentFile` make them.
fn without_empty_variable(arg: Arg) -> Arg {
    match arg.get_env().and_then(std::env::var_os) {
        Some(value) if value.is_empty() => arg.env(Resettable::Reset),
        _ => arg,
    }
}

/// The same for a flag: in a manifest, `--public-ip=$(PUBLIC_IP)` may come out as `--public-ip=`.
fn has_value(arg: &OsString) -> bool {
    let parts = arg.to_str().and_then(|arg| arg.split_once('='));
    parts.is_none_or(|(flag, value)| !flag.starts_with('-') || !value.is_empty())
}

/// Go's flag package takes `-name`; clap wants `--name`.
fn two_dashes(arg: OsString) -> OsString {
    match arg.to_str().map(str::as_bytes) {
        Some([b'-', first, _, ..]) if first.is_ascii_alphabetic() => {
            let mut long = OsString::from("-");
            long.push(arg);
            long
        }
        _ => arg,
    }
}

#[cfg(test)]
mod command_lines;

#[cfg(test)]
mod tests;
