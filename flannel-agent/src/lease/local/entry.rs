//! A file of `subnets/`: the lease, and when it ends. Pure.

use std::time::SystemTime;

use crate::lease::{RawLease, TTL};

/// Any of these permissions makes a file a reservation.
const WRITABLE: u32 = 0o222;

/// One file of `subnets/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub lease: RawLease,
    /// When the lease ends; `None` for a reservation.
    pub ends: Option<SystemTime>,
}

/// Mode of the files that we write.
#[derive(Clone, Copy)]
pub(super) enum Mode {
    Lease = 0o444,
    Reservation = 0o644,
}

impl Entry {
    /// `mode`: the permissions of the file; `modified`: its time.
    pub(super) fn new(lease: RawLease, mode: u32, modified: SystemTime) -> Self {
        let ends = if mode & WRITABLE == 0 { modified.checked_add(TTL) } else { None };
        Self { lease, ends }
    }

    pub(super) fn has_ended(&self, now: SystemTime) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }

    /// The mode that keeps it what it is.
    pub(super) fn mode(&self) -> Mode {
        if self.ends.is_some() { Mode::Lease } else { Mode::Reservation }
    }
}

/// Whether a file of this name is looked at: hidden ones are editors' and rsync's temporary files, and ours.
pub(super) fn is_visible(name: &str) -> bool {
    !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_lease_ends_and_a_reservation_does_not() {
        let now = SystemTime::UNIX_EPOCH + 50 * 365 * 24 * HOUR;
        for (mode, age, ended) in [
            (0o444, 0, false),
            (0o444, 23, false),
            (0o444, 24, true),
            (0o400, 25, true),
            (0o555, 25, true),
            (0o644, 25, false),
            (0o600, 10_000, false),
            (0o464, 25, false),
            (0o446, 25, false),
        ] {
            let lease = RawLease { key: "10.5.52.0-24".to_owned(), value: Vec::new() };
            let entry = Entry::new(lease, mode, now - age * HOUR);
            assert_eq!(entry.has_ended(now), ended, "{mode:o}, {age} h old");
        }
    }

    #[test]
    fn what_we_write_stays_what_it_was() {
        for mode in [Mode::Lease, Mode::Reservation] {
            let lease = RawLease { key: String::new(), value: Vec::new() };
            let entry = Entry::new(lease, mode as u32, SystemTime::UNIX_EPOCH);
            assert_eq!(entry.mode() as u32, mode as u32);
        }
    }

    #[test]
    fn hidden_files_are_not_looked_at() {
        for (name, visible) in [
            ("10.5.52.0-24", true),
            ("10.244.6.0-24&fd44:0:0:4b::-64", true),
            ("README", true),
            ("10.5.52.0-24~", true),
            (".10.5.52.0-24.swp", false),
            (".10.5.52.0-24.Xq3fZa", false),
            (".tmpXq3fZa", false),
        ] {
            assert_eq!(is_visible(name), visible, "{name}");
        }
    }
}
