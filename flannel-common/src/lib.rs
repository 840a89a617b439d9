//! What the BPF programs and the agent agree on: map names and layouts ([`abi`], [`address`], [`event`],
//! [`flow`], [`lease`], [`node`]), what one program tells the next ([`handover`]),
//! and the list of everything that can happen to a packet ([`outcome`]).
//!
//! Addresses, ports and MACs are byte arrays in wire order; everything else is in the machine's order, as
//! the kernel's own interfaces have it.
#![no_std]

pub mod abi;
pub mod address;
pub mod checksum;
pub mod event;
pub mod flow;
pub mod handover;
pub mod lease;
pub mod node;
pub mod outcome;
