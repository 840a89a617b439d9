//! The daemon's flags by topic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use clap::Args;
use flannel_common::abi;
use regex_lite::Regex;
use tracing::Level;
use tracing_subscriber::filter::Targets;

use crate::config::{DataplaneMode, XdpMode};

/// How leases are stored.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Leases")]
pub struct LeaseFlags {
    /// Keep configuration and leases as files in this folder instead of etcd: DIR/config, and leases such as
    /// DIR/subnets/10.5.52.0-24, with the texts that etcd would have. A read-only file (-r--r--r--) is an
    /// agent's lease and ends 24 h after its modification time. A writable file (-rw-r--r--) is a reservation
    /// and does not end.
    #[arg(long, value_name = "DIR")]
    pub local_subnet_mgr: Option<PathBuf>,
    /// Renew the lease this long before it ends.
    #[arg(long, value_name = "MINUTES", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=1439))]
    pub subnet_lease_renew_margin: u64,
    /// When more than three leases and at least half of all vanish within 10 s, or any with or after the node's own, their nodes stay
    /// reachable for this time; 0 removes them at once. A lease whose subnet another node takes is removed at once.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub lease_hold: u64,
}

/// Access to etcd. An empty text means that the flag is not given.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "etcd")]
pub struct EtcdFlags {
    /// etcd endpoints, separated by commas.
    #[arg(
        long,
        value_name = "URLS",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:4001,http://127.0.0.1:2379"
    )]
    pub etcd_endpoints: Vec<String>,
    /// Folder of the network in etcd: its key `config`, and its leases below `subnets/`.
    #[arg(long, value_name = "KEY", default_value = "/coreos.com/network")]
    pub etcd_prefix: String,
    /// Key of the client certificate (PEM file).
    #[arg(long, value_name = "FILE", default_value = "")]
    pub etcd_keyfile: String,
    /// Client certificate (PEM file).
    #[arg(long, value_name = "FILE", default_value = "")]
    pub etcd_certfile: String,
    /// Certificate authorities of etcd (PEM file). Default: the system's.
    #[arg(long, value_name = "FILE", default_value = "")]
    pub etcd_cafile: String,
    /// etcd user.
    #[arg(long, value_name = "USER", default_value = "")]
    pub etcd_username: String,
    /// Password of the etcd user. The list of processes shows this flag to every user; the variable is not
    /// shown.
    #[arg(long, value_name = "PASSWORD", default_value = "", hide_env_values = true)]
    pub etcd_password: String,
    /// File with the password of the etcd user. It is read for every connection.
    #[arg(long, value_name = "FILE", default_value = "")]
    pub etcd_password_file: String,
    /// Whether the password stands on the command line.
    #[arg(skip)]
    pub password_is_shown: bool,
}

/// Subnets from Kubernetes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Kubernetes")]
pub struct KubeFlags {
    /// Take subnets from Kubernetes instead of etcd.
    #[arg(long, default_value_t = false)]
    pub kube_subnet_mgr: bool,
    /// Kubernetes API server.
    #[arg(long, value_name = "URL", default_value = "")]
    pub kube_api_url: String,
    /// kubeconfig file.
    #[arg(long, value_name = "FILE", default_value = "")]
    pub kubeconfig_file: String,
    /// Prefix of the node annotations.
    #[arg(long, value_name = "PREFIX", default_value = "flannel.alpha.coreos.com")]
    pub kube_annotation_prefix: String,
    /// Network configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/kube-flannel/net-conf.json")]
    pub net_config_path: PathBuf,
    /// Clear the node's NetworkUnavailable condition.
    #[arg(long, default_value_t = true)]
    pub set_node_network_unavailable: bool,
}

/// The interface that carries packets between nodes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Uplink")]
pub struct UplinkFlags {
    /// Uplink, by interface name or address. Repeat to try several in order. Default: the default route's
    /// interface.
    #[arg(long, value_delimiter = ',', value_name = "NAME|ADDRESS")]
    pub iface: Vec<String>,
    /// Uplink, by a regular expression that matches an address or name of one interface. Repeat to try
    /// several in order.
    #[arg(long, value_name = "REGEX")]
    pub iface_regex: Vec<Regex>,
    /// Uplink, by an address that is reached through it.
    #[arg(long, value_name = "ADDRESS")]
    pub iface_can_reach: Option<IpAddr>,
    /// IPv4 address that peers send to. Default: the uplink's.
    #[arg(long, value_name = "ADDRESS")]
    pub public_ip: Option<Ipv4Addr>,
    /// IPv6 address that peers send to. Default: the uplink's.
    #[arg(long, value_name = "ADDRESS")]
    pub public_ipv6: Option<Ipv6Addr>,
}

/// How packets are carried.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Dataplane")]
pub struct DataplaneFlags {
    /// What carries packets between nodes. Default: the network's Backend.Dataplane, else auto.
    #[arg(long, value_name = "MODE")]
    pub dataplane: Option<DataplaneMode>,
    /// With BPF, flows that the host stack lets through unchanged skip it. One packet in 10 s still passes
    /// it, so new firewall rules take effect. Default: the network's Backend.FlowCache, else true.
    #[arg(long)]
    pub flow_cache: Option<bool>,
    /// With BPF, how many flows of one address family may skip the host stack at a time; a flow to a service counts
    /// twice. Of more, some take turns. Each takes 200 bytes (IPv4) or 270 (IPv6) of kernel memory.
    #[arg(long, value_name = "N", default_value_t = abi::MAX_FLOWS as u32, value_parser = clap::value_parser!(u32).range(1024..=16_777_216))]
    pub max_flows: u32,
    /// With BPF, what strips the outer headers of received packets. XDP does it before the kernel merges
    /// packets into aggregates. Where the interface refuses XDP, TC does it. Default: the network's
    /// Backend.XDP, else auto.
    #[arg(long, value_name = "MODE")]
    pub xdp: Option<XdpMode>,
}

/// Routes in a cloud's network.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Cloud")]
pub struct CloudFlags {
    /// With the backends aws-vpc, gce and ali-vpc, time between checks of the cloud's routes. Up to a quarter of it is left out at
    /// random, so that nodes do not ask together.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub cloud_resync: u64,
}

/// Firewall rules and routes for pods.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Firewall")]
pub struct FirewallFlags {
    /// Masquerade traffic that leaves the overlay.
    #[arg(long, default_value_t = false)]
    pub ip_masq: bool,
    /// Masquerade without random source ports.
    #[arg(long, default_value_t = false)]
    pub ip_masq_fully_random_disable: bool,
    /// Drop packets to addresses of the node's subnet that no pod has, by a blackhole route. For pods without
    /// a bridge (Canal).
    #[arg(long, default_value_t = false)]
    pub ip_blackhole_route: bool,
    /// Accept forwarded overlay traffic.
    #[arg(long, default_value_t = true)]
    pub iptables_forward_rules: bool,
    /// Time between checks of the firewall rules.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    pub iptables_resync: u64,
}

/// The endpoint for health checks and metrics.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Health and metrics")]
pub struct HealthFlags {
    /// Address of the endpoint for /healthz, /readyz and /metrics.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0")]
    pub healthz_ip: String,
    /// Port of the endpoint; 0 turns it off.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    pub healthz_port: u16,
    /// Ask the other nodes this often whether they can be reached through the network, 500 of them each time; 0 turns it off.
    /// Nodes that do not answer are logged and counted in flannel_peer_reachable.
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub probe_interval: u64,
}

/// The log.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Log")]
pub struct LogFlags {
    /// Verbosity: 0 logs changes, 2 adds reasons, 6 adds every packet that a BPF program handles.
    #[arg(short = 'v', long = "v", value_name = "LEVEL", default_value_t = 0)]
    pub verbosity: u8,
    /// Accepted for flanneld's command lines; has no effect.
    #[arg(long, value_name = "PATTERNS", hide = true)]
    pub vmodule: Option<String>,
    /// Accepted for flanneld's command lines; has no effect.
    #[arg(long = "log_backtrace_at", value_name = "PLACE", hide = true)]
    pub log_backtrace_at: Option<String>,
}

impl LogFlags {
    /// Returns the log filter for the verbosity. The levels are klog's: 0 info, 2 and up debug, 6 and up trace.
    ///
    /// `netlink_proto` warns of sockets that the agent itself has closed, so its warnings are left out.
    #[must_use]
    pub fn filter(&self) -> Targets {
        let filter = Targets::new().with_default(Level::INFO);
        match self.verbosity {
            0 | 1 => filter.with_target("netlink_proto", Level::ERROR),
            2..=5 => {
                filter.with_target("netlink_proto", Level::ERROR).with_target("flannel_agent", Level::DEBUG)
            }
            _ => filter.with_target("flannel_agent", Level::TRACE).with_target("flannel_ebpf", Level::DEBUG),
        }
    }

    /// Whether BPF programs log every run.
    #[must_use]
    pub const fn log_packets(&self) -> bool {
        self.verbosity >= 6
    }
}
