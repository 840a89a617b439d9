//! What the BPF programs and the agent agree on: names and layouts of maps, and the list of everything that can happen
//! to a packet ([`outcome`]).
//!
//! Addresses, ports and MACs are byte arrays in wire order. Everything else is in the machine's order, as in the kernel's
//! own interfaces.
#![no_std]

pub mod abi;
pub mod address;
pub mod capture;
pub mod checksum;
pub mod entered;
pub mod event;
pub mod fingerprint;
pub mod flow;
pub mod handover;
pub mod kept;
pub mod lease;
pub mod node;
pub mod outcome;
