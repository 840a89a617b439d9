//! How long repetitions of the same took.

/// Result of round trips or connections, one after the other.
#[derive(Debug, Clone)]
pub struct Times {
    /// Seconds of each.
    pub each: Vec<f64>,
    /// Seconds of all.
    pub all: f64,
}

impl Times {
    /// Returns how many there were per second.
    pub fn per_second(&self) -> f64 {
        self.each.len() as f64 / self.all
    }
}
