//! The packet filters of the host: runs iptables and nft, and reads which rules packets of the host itself meet.

mod generation;
mod iptables;
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
