//! Tests of the agent with a real kube-apiserver and its etcd. Tests write the Nodes, agents run in the bed's namespaces.
//! Needs root and Kubernetes' programs.

mod annotations;
mod bad_nodes;
mod bed;
mod bridged;
mod config_map;
mod heartbeats;
mod outage;
mod peers;
mod pod_cidrs;
mod reachability;
mod rights;
