//! A real Kubernetes: its programs, servers made of them, and whole clusters.

mod binaries;
mod certificates;
mod cluster;
mod control_plane;
pub mod images;
mod kubectl;
mod node;
mod pod;
mod service;
mod view;

pub use binaries::{Binaries, VARIABLE};
pub use cluster::{Options, RunningCluster};
pub use kubectl::Kubectl;
pub use node::KubeNode;
pub use pod::KubePod;
pub use view::{CLUSTER, KubeCluster};
