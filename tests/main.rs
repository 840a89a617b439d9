//! The integration suite: one binary, run by `cargo xtask test`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is not as it should be"
)]

mod check;
mod cloud;
mod cni;
mod documents;
mod endpoint;
mod faults;
mod image;
mod inspect;
mod kube_api;
mod kubernetes;
mod manifests;
mod migration;
mod monitoring;
mod network;
mod overlay;
mod package;
mod packets;
mod program;
mod security;
mod seeds;
mod soak;
mod store;
