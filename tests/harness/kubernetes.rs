//! A real Kubernetes: its programs, servers made of them, and whole clusters.
//!
//! Tests of the agent's use of the API share one [`ApiServer`]. Each has its own annotation prefix, service account and
//! Nodes in it: a [`KubeStore`].

mod api_server;
mod binaries;
mod certificates;
mod client;
mod cluster;
mod control_plane;
mod forwarder;
pub mod images;
mod kubeconfig;
mod kubectl;
mod node;
mod objects;
mod pod;
mod service;
mod store;
mod view;
pub mod web;

pub use api_server::ApiServer;
pub use binaries::{Binaries, VARIABLE};
pub use client::{Client, Event};
pub use cluster::{Options, RunningCluster};
pub use forwarder::Forwarder;
pub use kubectl::Kubectl;
pub use node::KubeNode;
pub use objects::Objects;
pub use pod::KubePod;
pub use store::KubeStore;
pub use view::{CLUSTER, KubeCluster};
