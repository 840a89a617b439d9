//! The BPF programs. [`path`] has one file per hook, the packet's way from top to bottom; [`stage`] has what
//! happens to it on the way. Everything is a library, so that pure parts are tested on the host; the entry
//! points alone are in `main.rs`.
#![cfg_attr(target_arch = "bpf", no_std)]

pub mod group;
pub mod ip;
pub mod maps;
pub mod outer;
pub mod packet;
pub mod path;
pub mod stage;
pub mod verdict;
