//! Waits before retries, longer each time. The time is random in part, so that nodes do not retry together.

use std::time::Duration;

use crate::random;

/// Delays that double from `first` to `longest`, each shortened by up to a half at random.
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// Starts again with the shortest delay.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }

    /// Waits for the next delay.
    pub(super) async fn wait(&mut self) {
        tokio::time::sleep(self.delay(random::number().unwrap_or_default())).await;
    }

    fn delay(&mut self, random: u64) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(self.longest);
        let permille = u32::try_from(random % 501).unwrap_or_default();
        full - full * permille / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest() {
        let millis = Duration::from_millis;
        let mut backoff = Backoff::new(millis(100), millis(350));
        let delays: Vec<_> = (0..4).map(|_| backoff.delay(0)).collect();
        assert_eq!(delays, [millis(100), millis(200), millis(350), millis(350)]);
        assert_eq!(backoff.delay(500), millis(175));
        backoff.reset();
        assert_eq!(backoff.delay(0), millis(100));
    }
}
