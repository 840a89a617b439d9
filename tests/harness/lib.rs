//! The test bed: clusters made of network namespaces, real etcd servers, real agents and real traffic.
//!
//! The integration suite, `cargo xtask run` and `cargo xtask bench` all build their clusters here.
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
//! Everything is a guard: what a value made is gone when it is dropped, after a panic too. What a killed
//! run left behind is removed by [`sweep()`], which the first cluster of every process calls.

pub mod agent;
pub mod capture;
pub mod cluster;
pub mod docker;
pub mod etcd;
pub mod failure;
pub mod firewall;
pub mod interrupt;
pub mod kernel_vxlan;
pub mod metrics;
pub mod netns;
pub mod pod;
pub mod process;
pub mod require;
pub mod store;
pub mod subnet_env;
pub mod sweep;
pub mod tools;
pub mod traffic;
pub mod wait;

mod owner;
mod parallel;
mod workdir;

pub use agent::{Agent, AgentBuilder};
pub use capture::Capture;
pub use cluster::{Cluster, Node, Topology};
pub use docker::Docker;
pub use etcd::Etcd;
pub use failure::{Failure, TestResult};
pub use netns::NetNs;
pub use pod::Pod;
pub use require::{require_commands, require_root};
pub use store::{Datastore, LocalStore};
pub use subnet_env::SubnetEnv;
pub use sweep::sweep;
pub use traffic::Host;
pub use wait::eventually;
