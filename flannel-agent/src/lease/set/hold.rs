//! Leases that vanish together are held: peers stay reachable for a while. Pure.
//!
//! A lease that is deleted alone acts at once. When a large part of all leases is gone within a short time, a wiped or
//! restored datastore is likelier than as many nodes that are gone.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::lease::entry::RawLease;
use crate::lease::key::SubnetKey;

/// Leases that vanish within this time vanish together.
const TOGETHER: Duration = Duration::from_secs(10);

/// Up to this number of leases may vanish together without being held.
const FEW: usize = 3;

/// The leases that have vanished, and those of them that stay in use.
#[derive(Debug, Default)]
pub(super) struct Hold {
    /// For how long leases are held; zero turns holding off.
    length: Duration,
    /// The peers that have vanished since [`TOGETHER`] ago and are not in use: when, and their leases.
    gone: BTreeMap<SubnetKey, (Option<Instant>, RawLease)>,
    /// The own entry has vanished since the last look.
    own_vanished: bool,
    /// When the own entry has vanished.
    own_gone: Option<Instant>,
    /// The peers that are in use without an entry of the datastore, and until when.
    held: BTreeMap<SubnetKey, Instant>,
}

impl Hold {
    pub(super) fn new(length: Duration) -> Self {
        Self { length, ..Self::default() }
    }

    pub(super) const fn length(&self) -> Duration {
        self.length
    }

    /// The entry of a peer has vanished.
    pub(super) fn peer_vanished(&mut self, key: SubnetKey, lease: RawLease) {
        self.gone.insert(key, (None, lease));
    }

    /// The entry of the own subnet has vanished.
    pub(super) const fn own_vanished(&mut self) {
        self.own_vanished = true;
    }

    /// The datastore has an entry of this peer.
    pub(super) fn present(&mut self, key: &SubnetKey) {
        self.held.remove(key);
        self.gone.remove(key);
    }

    pub(super) fn is_held(&self, key: &SubnetKey) -> bool {
        self.held.contains_key(key)
    }

    /// Lets a peer go. Returns whether it was held.
    pub(super) fn let_go(&mut self, key: &SubnetKey) -> bool {
        self.held.remove(key).is_some()
    }

    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Returns the peers that are held, and until when.
    pub(super) fn held_until(&self) -> impl Iterator<Item = (SubnetKey, Instant)> {
        self.held.iter().map(|(key, end)| (*key, *end))
    }

    /// Returns when the next peer is to be let go.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.held.values().min().copied()
    }

    /// Returns the peers to be let go by now.
    pub(super) fn ended(&self, now: Instant) -> Vec<SubnetKey> {
        self.held.iter().filter(|(_, end)| **end <= now).map(|(key, _)| *key).collect()
    }

    /// Decides which of the peers that have vanished so far are to be held, where `left` others are still there. Returns their
    /// leases.
    pub(super) fn take_vanished(&mut self, left: usize, now: Instant) -> Vec<RawLease> {
        let recent = |since: Instant| now.duration_since(since) < TOGETHER;
        if std::mem::take(&mut self.own_vanished) {
            self.own_gone = Some(now);
        }
        self.own_gone = self.own_gone.filter(|since| recent(*since));
        self.gone.retain(|_, (since, _)| recent(*since.get_or_insert(now)));
        // Those that are held since a moment ago have vanished together with these.
        let held = self.held.values().filter(|end| **end + TOGETHER > now + self.length).count();
        let gone = self.gone.len() + held;
        if self.length.is_zero() {
            return Vec::new();
        }
        let all = vanished_together(gone, left, self.own_gone.is_some());
        // A node that runs keeps its lease: with its own, few are suspicious too. When a wiped datastore is seen, most others may have
        // taken theirs again.
        let own_gone = self.own_gone;
        let is_with_own = |since: Option<Instant>| own_gone.is_some_and(|own| since >= Some(own));
        let taken = self.gone.extract_if(.., |_, (since, _)| all || is_with_own(*since));
        taken.map(|(_, (_, lease))| lease).collect()
    }

    /// Holds a peer from now on.
    pub(super) fn hold(&mut self, key: SubnetKey, now: Instant) {
        self.held.insert(key, now + self.length);
    }
}

/// Decides whether the number of peers that are gone is suspicious, given how many are left and whether the own entry is
/// gone, too.
const fn vanished_together(gone: usize, left: usize, own_gone: bool) -> bool {
    (gone > FEW && gone >= left) || (own_gone && left == 0 && gone > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_a_few_and_at_least_as_many_as_are_left_vanish_together_or_all_with_the_own_entry() {
        for (gone, left, own_gone, expected) in [
            (0, 0, false, false),
            (0, 0, true, false),
            (1, 0, false, false),
            (1, 0, true, true),
            (1, 1, true, false),
            (3, 0, false, false),
            (3, 0, true, true),
            (4, 0, false, true),
            (4, 4, false, true),
            (4, 5, false, false),
            (4, 5, true, false),
            (2500, 2500, false, true),
            (2499, 2501, false, false),
        ] {
            assert_eq!(
                vanished_together(gone, left, own_gone),
                expected,
                "{gone} gone, {left} left, own gone: {own_gone}"
            );
        }
    }
}
