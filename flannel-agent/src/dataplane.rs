//! What backends are made of: [`desired`] says what should be there, the sinks see to it: [`kernel`], the
//! floor; [`accelerator`], BPF on top of it, where it loads.

pub mod accelerator;
pub mod bpf;
pub mod desired;
pub mod entry;
pub mod kernel;
mod shortcut;
pub mod table;
mod xdp;
