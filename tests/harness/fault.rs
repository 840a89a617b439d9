//! What the suite and the chores that run its faults agree on: the row of the table, as the suite writes it and
//! `cargo xtask test --faults` prints it, and how long a soak takes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The variable with the path of the file that rows are added to, one JSON object a line.
pub const VARIABLE: &str = "FLANNEL_FAULTS";

/// The variable that says for how many seconds a soak goes on.
pub const SOAK_SECONDS: &str = "FLANNEL_SOAK_SECONDS";
/// The variable with the number from which a soak makes its random ones.
pub const SOAK_SEED: &str = "FLANNEL_SOAK_SEED";

/// What a fault has cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// What happened.
    pub fault: String,
    /// What it may cost, in words.
    pub bound: String,
    /// Datagrams sent meanwhile, both ways.
    pub sent: u64,
    /// Those that never arrived.
    pub lost: u64,
    /// The longest time between two arrivals.
    pub gap: Duration,
    /// The time from the fault until all was right.
    pub right: Duration,
}
