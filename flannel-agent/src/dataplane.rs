//! What carries packets: [`desired`] computes the kernel entries, [`kernel`] (the floor) writes them, and
//! [`accelerator`] puts BPF programs on top where they load.

pub mod accelerator;
pub mod bpf;
pub(crate) mod capabilities;
mod connections;
pub mod desired;
pub mod entry;
pub mod forwarding;
pub mod kept;
pub mod kernel;
pub mod obstacle;
pub mod table;
mod watcher;
mod xdp;
