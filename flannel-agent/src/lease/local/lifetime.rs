//! Reads from the permissions and the time of a file whether it is a lease, a reservation or an ended lease. Pure.

use std::time::SystemTime;

use crate::lease::entry::{LeaseEnd, TTL};
use crate::lease::policy::Lifetime;

/// Any of these permissions makes a file a reservation.
const WRITABLE: u32 = 0o222;

impl Lifetime {
    /// Returns the lifetime of a file with these permissions that was last modified then.
    pub(super) fn of_file(permissions: u32, modified: SystemTime, now: SystemTime) -> Self {
        if permissions & WRITABLE != 0 {
            Self::Reservation
        } else if modified.checked_add(TTL).is_some_and(|ends| ends <= now) {
            Self::Ended
        } else {
            Self::Lease
        }
    }

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
            let lifetime = Lifetime::of_file(permissions, now - age * HOUR, now);
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
            assert_eq!(Lifetime::of_file(lifetime.permissions(), now, now), lifetime);
        }
    }
}
