//! From leases to packets: [`desired`] says what should be there, the sinks [`kernel`] and [`bpf`] see to it.

pub mod bpf;
pub mod desired;
pub mod kernel;
