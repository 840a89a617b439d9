//! How often other programs have detached ours lately. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The time that counts.
const LATELY: Duration = Duration::from_secs(30);
/// From so many times on, it is no single accident.
const TOO_OFTEN: usize = 5;
/// Programs that are attached for so long stay: what detaches them too often does so sooner.
pub(super) const STAYS: Duration = Duration::from_secs(10);

/// The times of the last detachments, oldest first.
#[derive(Debug, Default)]
pub(super) struct Detachments(VecDeque<Instant>);

impl Detachments {
    /// Adds one. Returns whether there are too many.
    pub(super) fn add(&mut self, now: Instant) -> bool {
        self.0.retain(|time| now.duration_since(*time) < LATELY);
        self.0.push_back(now);
        self.0.len() >= TOO_OFTEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the number of detachments, with this pause between them, after which there are too many.
    fn too_many_after(pause: u64) -> Option<u64> {
        let (mut detachments, start) = (Detachments::default(), Instant::now());
        (1..100).find(|number| detachments.add(start + Duration::from_secs(number * pause)))
    }

    #[test]
    fn what_happens_again_and_again_is_told_from_accidents() {
        let shortest_accident = LATELY.as_secs() / (TOO_OFTEN as u64 - 1) + 1;
        for (pause, expected) in [
            (0, Some(5)),
            (1, Some(5)),
            (shortest_accident - 1, Some(5)),
            (shortest_accident, None),
            (60, None),
        ] {
            assert_eq!(too_many_after(pause), expected, "every {pause} s");
        }
        assert!(STAYS > Duration::from_secs(shortest_accident));
    }
}
