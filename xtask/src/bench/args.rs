//! The command line of `cargo xtask bench`.

use std::path::PathBuf;

use super::control::Store;
use super::crowd::Backend;
use super::metric::Metric;
use super::variant::Variant;

/// What to measure, and where the results go.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds; each measures every variant once per metric, and medians are over rounds
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) rounds: u32,
    /// Seconds per measurement
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(super) seconds: u32,
    /// Measure only these variants (ratios need kernel-vxlan and veth among them)
    #[arg(long, value_name = "VARIANT", num_args = 1..)]
    pub(super) only: Vec<Variant>,
    /// Measure only this [default: flood, bulk and round-trips, and what they cost]
    #[arg(long, value_name = "METRIC", num_args = 1..)]
    pub(super) metric: Vec<Metric>,
    /// Measure this earlier build of the agent too, as the variant agent-before
    #[arg(long, value_name = "PROGRAM")]
    pub(super) before: Option<PathBuf>,
    /// Write machine, parameters, every sample, medians and ratios
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Draw the medians
    #[arg(long, value_name = "FILE.svg")]
    pub(super) plot: Option<PathBuf>,
    /// Fail unless the agent reaches its targets: agent-bpf against kernel-vxlan, or those of --control-plane or --start
    #[arg(long)]
    pub(super) check: bool,
    /// Measure instead how soon a starting agent has written all leases to kernel and maps, and then a change of one
    #[arg(long, conflicts_with_all = ["only", "metric", "before", "plot", "seconds"])]
    pub(super) control_plane: bool,
    /// Measure instead how soon a starting agent is ready, and how soon it has attached the programs to all pods' ports
    #[arg(long, conflicts_with_all = ["only", "metric", "plot", "seconds", "control_plane"])]
    pub(super) start: bool,
    /// Numbers of pods that the node has when the agent starts [default: none, one and 100]
    #[arg(long, value_name = "N", num_args = 1.., requires = "start")]
    pub(super) pods: Vec<usize>,
    /// Datastore of the leases to start among
    #[arg(long, requires = "control_plane", value_enum, default_value_t = Store::Etcd)]
    pub(super) store: Store,
    /// Backend of the leases to start among; the targets of --check are vxlan's
    #[arg(long, requires = "control_plane", value_enum, default_value_t = Backend::Vxlan)]
    pub(super) backend: Backend,
    /// Numbers of leases to start among [default: several, up to 50000 in etcd and to 5000 in Kubernetes]
    #[arg(long, value_name = "N", num_args = 1.., requires = "control_plane",
          value_parser = clap::value_parser!(u32).range(0..=60_000))]
    pub(super) leases: Vec<u32>,
}
