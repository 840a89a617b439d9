//! Reads from the permissions and the time of a file whether it is a lease, a reservation or an ended lease. Pure.

use std::collections::BTreeMap;
use std::time::SystemTime;

use tokio::time::Instant;

use crate::lease::entry::{LeaseEnd, TTL};
use crate::lease::policy::Lifetime;

/// Any of these permissions makes a file a reservation.
const WRITABLE: u32 = 0o222;

/// When the leases end that have been seen, by name. The clock is asked when a file's time is seen first. From then on the time
/// that passes counts, so that no lease ends because somebody sets the clock.
#[derive(Debug, Default)]
pub(super) struct Ends(BTreeMap<String, (SystemTime, Instant)>);

impl Ends {
    /// Returns the lifetime of the file with this name and these permissions that was last modified then. `clock` and `now` are the
    /// same moment.
    pub(super) fn lifetime(
        &mut self,
        name: &str,
        permissions: u32,
        modified: SystemTime,
        clock: SystemTime,
        now: Instant,
    ) -> Lifetime {
        if permissions & WRITABLE != 0 {
            return Lifetime::Reservation;
        }
        let known = self.0.get(name).filter(|(time, _)| *time == modified).map(|(_, end)| *end);
        let end = known.unwrap_or_else(|| {
            // A time in the future is of a clock that differs.
            let age = clock.duration_since(modified).unwrap_or_default();
            let end = now + TTL.saturating_sub(age);
            self.0.insert(name.to_owned(), (modified, end));
            end
        });
        if end <= now { Lifetime::Ended } else { Lifetime::Lease }
    }

    /// Forgets files that are not there any more.
    pub(super) fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| is_there(name));
    }
}

impl Lifetime {
    /// Returns when an entry with this lifetime ends whose file was last modified then.
    pub(super) fn end(self, modified: SystemTime) -> LeaseEnd {
        let end = modified.checked_add(TTL).and_then(|end| end.duration_since(SystemTime::UNIX_EPOCH).ok());
        match (self, end) {
            (Self::Lease | Self::Ended, Some(end)) => LeaseEnd::At(end.as_secs()),
            (Self::Lease | Self::Ended, None) => LeaseEnd::Unknown,
            (Self::Reservation, _) => LeaseEnd::Never,
        }
    }

    /// Returns the permissions of files that are written with this lifetime.
    pub(super) fn permissions(self) -> u32 {
        match self {
            Self::Reservation => 0o644,
            Self::Lease | Self::Ended => 0o444,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_lease_ends_and_a_reservation_does_not() {
        let now = SystemTime::UNIX_EPOCH + 50 * 365 * 24 * HOUR;
        for (permissions, age, expected) in [
            (0o444, 0, Lifetime::Lease),
            (0o444, 23, Lifetime::Lease),
            (0o444, 24, Lifetime::Ended),
            (0o400, 25, Lifetime::Ended),
            (0o555, 25, Lifetime::Ended),
            (0o644, 25, Lifetime::Reservation),
            (0o600, 10_000, Lifetime::Reservation),
            (0o464, 25, Lifetime::Reservation),
            (0o446, 25, Lifetime::Reservation),
        ] {
            let lifetime = Ends::default().lifetime("a", permissions, now - age * HOUR, now, Instant::now());
            assert_eq!(lifetime, expected, "{permissions:o}, {age} h old");
        }
    }

    #[test]
    fn the_end_is_a_day_after_the_time_of_the_file() {
        let modified = SystemTime::UNIX_EPOCH + HOUR;
        assert_eq!(Lifetime::Lease.end(modified), LeaseEnd::At(25 * 3600));
        assert_eq!(Lifetime::Ended.end(modified), LeaseEnd::At(25 * 3600));
        assert_eq!(Lifetime::Reservation.end(modified), LeaseEnd::Never);
    }

    #[test]
    fn a_file_that_is_written_again_keeps_its_lifetime() {
        let now = SystemTime::now();
        for lifetime in [Lifetime::Lease, Lifetime::Reservation] {
            let read = Ends::default().lifetime("a", lifetime.permissions(), now, now, Instant::now());
            assert_eq!(read, lifetime);
        }
    }

    #[test]
    fn a_clock_that_is_set_ends_no_lease_and_prolongs_none() {
        let (clock, now, mut ends) = (SystemTime::now(), Instant::now(), Ends::default());
        let written = clock - HOUR;
        let mut at = |modified, clock, hours| {
            ends.lifetime("a", 0o444, modified, clock, now + hours * HOUR) == Lifetime::Lease
        };
        assert!(at(written, clock, 0));
        assert!(at(written, clock + 72 * HOUR, 1), "three days forward");
        assert!(at(written, clock - 72 * HOUR, 22), "three days back");
        assert!(!at(written, clock - 72 * HOUR, 23), "24 h have passed");
        assert!(at(clock - 72 * HOUR, clock - 72 * HOUR, 23), "renewed, by the clock as it is by then");
        assert!(!at(written, clock + 72 * HOUR, 24), "a copy of the lease as it was");
        assert!(at(clock + 72 * HOUR, clock, 24), "written by a clock that goes before");
        ends.retain(|name| name != "a");
        assert!(ends.0.is_empty());
    }
}
