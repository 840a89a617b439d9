//! What facts about the node mean. Pure: facts are collected before.

pub(super) mod agent;
pub(super) mod cni;
pub(super) mod firewall;
pub(super) mod host;
pub(super) mod kernel;
pub(super) mod leases;
pub(super) mod managers;
pub(super) mod mtu;
pub(super) mod others;
pub(super) mod peers;
