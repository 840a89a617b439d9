//! The test bed: clusters of network namespaces with real etcd servers, real agents and real traffic.
//!
//! The integration suite, `cargo xtask run` and `cargo xtask bench` build their clusters here. It needs root.
//!
//! # A cluster
//!
//! A node is a network namespace. Its uplink `eth0` leads to the underlay, `mgmt0` to the management network with the
//! datastore. A pod is a namespace behind the node's bridge `cni0`. The underlay has one of these topologies:
//!
//! | [`Topology`] | underlay |
//! | --- | --- |
//! | `segment(n)` | `n` nodes on one switch; node 1 is 192.168.64.1 and fd00:192:168:64::1, and so on |
//! | `two_nodes_routed()` | two nodes on different segments, 192.168.64.0/24 and 192.168.65.0/24, with a router between them |
//! | `routed(&[n, m])` | `n` and `m` nodes on two segments with a router between them; more segments with more numbers |
//! | `two_nodes()` | two nodes joined by one veth pair, without a switch, for measurements |
//! | `two_cards()` | two nodes with a network card each, in the machine of `cargo xtask vm` |
//!
//! # A test
//!
//! Build a cluster, write the network's configuration, start agents, add pods, send traffic:
//!
//! ```no_run
//! use flannel_tests::{Cluster, TestResult, traffic};
//!
//! fn pods_reach_each_other() -> TestResult {
//!     let cluster = Cluster::segment(3)?;
//!     let etcd = cluster.start_etcd()?;
//!     etcd.configure(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#)?;
//!     let _agents = cluster.start_agents(&etcd)?;
//!     let pods = cluster.one_pod_each()?;
//!     traffic::ping(&pods[0], pods[1].ip())?;
//!     Ok(())
//! }
//! ```
//!
//! - Changes take a moment: wait for a condition with [`eventually`], never sleep.
//! - Errors propagate by `?`. A failed test prints the logs of its agents and servers.
//! - All values are guards. Dropping one undoes what it created, after a panic too. A killed run leaves things behind;
//!   the first cluster of the next process removes them ([`sweep()`]).
//! - [`kube_proxy`] writes the rules of services. [`traffic::Responder`] tells clients which server has answered.
//! - [`Capture`] records packets and decodes them with tshark.

pub mod agent;
pub mod backlog;
pub mod capture;
pub mod clock;
pub mod cloud;
pub mod cluster;
pub mod docker;
pub mod etcd;
pub mod executable;
pub mod failure;
pub mod fault;
pub mod firewall;
pub mod flanneld;
pub mod flowtable;
pub mod foreign;
pub mod helm;
pub mod interrupt;
pub mod kernel_vxlan;
pub mod kube_proxy;
pub mod kubernetes;
pub mod machine;
pub mod metrics;
pub mod netns;
pub mod package;
pub mod pod;
pub mod process;
pub mod prometheus;
pub mod require;
pub mod shell;
pub mod store;
pub mod subnet_env;
pub mod sweep;
pub mod tools;
pub mod traffic;
pub mod tree;
pub mod tunnel;
pub mod wait;

mod cgroup;
mod container;
mod http;
mod owner;
mod packet_socket;
mod parallel;
mod workdir;

pub use agent::{Agent, AgentBuilder, Refusal};
pub use capture::Capture;
pub use cluster::{Cluster, Node, Topology};
pub use docker::Docker;
pub use etcd::Etcd;
pub use failure::{Failure, TestResult};
pub use kubernetes::{KubeCluster, KubeNode, KubePod};
pub use netns::NetNs;
pub use pod::Pod;
pub use require::{require_commands, require_root};
pub use store::{Datastore, LocalStore};
pub use subnet_env::SubnetEnv;
pub use sweep::sweep;
pub use traffic::Host;
pub use wait::eventually;
