//! A real Kubernetes: its programs, and servers made of them.

mod binaries;

pub use binaries::{Binaries, VARIABLE};
