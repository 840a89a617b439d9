//! The BPF programs. [`path`] has one file per hook, which reads from top to bottom in the order of a packet's way. [`stage`]
//! has the steps on this way. All code is a library, so that its pure parts are tested on the host; `main.rs` has only the
//! entry points.
#![cfg_attr(target_arch = "bpf", no_std)]

pub mod clock;
pub mod features;
pub mod group;
pub mod ip;
pub mod maps;
pub mod outer;
pub mod packet;
pub mod path;
pub mod stage;
pub mod verdict;
