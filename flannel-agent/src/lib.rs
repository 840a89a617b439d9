//! flannel's node daemon with a BPF dataplane.
//!
//! The way of a lease: [`lease`] reads it from the datastore, [`backend`] turns it into peers,
//! [`dataplane::desired`] computes the kernel entries that they need, [`dataplane::kernel`] (the floor) and
//! [`dataplane::bpf`] (the accelerator) write them. [`daemon`] drives it all.

mod atomic_file;
pub mod backend;
pub mod check;
pub mod cleanup;
pub mod cli;
pub mod cni;
pub mod config;
pub mod counters;
pub mod daemon;
pub mod dataplane;
pub mod docker_opts;
pub mod env_file;
pub mod firewall;
pub mod flows;
pub mod health;
pub mod lease;
pub mod mac;
mod memory;
pub mod metrics;
pub mod monitor;
pub mod netfilter;
pub mod netlink;
pub mod notify;
mod output;
pub mod paths;
pub mod peer;
pub mod prepare_node;
pub mod probe;
pub mod problem;
mod processes;
mod random;
pub mod report;
pub mod signals;
pub mod sole;
pub mod status;
pub mod subnet_file;
pub mod task;
pub mod trace;
pub mod uplink;
mod watch;
