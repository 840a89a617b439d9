//! The packet filters of the host: runs iptables and nft, and reads which rules packets meet, and where the load balancer sends them.

mod generation;
mod iptables;
pub(crate) mod ipvs;
pub mod judge;
mod legacy;
mod nft;
pub(crate) mod reader;
pub mod rules;
mod stamp;
pub(crate) mod tool;
mod watch;
mod words;

pub(crate) use stamp::{Stamp, Stamps};
pub use watch::{RuleWatch, Rules};
pub use words::words;
