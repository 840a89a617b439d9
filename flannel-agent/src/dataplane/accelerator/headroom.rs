//! The bridges that are to ask pods for room in front of packets.

use std::collections::BTreeSet;
use std::mem;

use tracing::debug;

use crate::dataplane::kernel::Kernel;

/// Asks each bridge once: what it asks for stays as long as it is there.
pub(super) struct Headroom {
    vni: u32,
    asked: BTreeSet<u32>,
    waiting: BTreeSet<u32>,
}

impl Headroom {
    pub(super) const fn new(vni: u32) -> Self {
        Self { vni, asked: BTreeSet::new(), waiting: BTreeSet::new() }
    }

    /// Sets the bridges that are there, by index.
    pub(super) fn follow(&mut self, bridges: &BTreeSet<u32>) {
        let asked = mem::take(&mut self.asked);
        self.waiting = bridges.difference(&asked).copied().collect();
        self.asked = bridges.intersection(&asked).copied().collect();
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Has the next bridge ask. If the kernel refuses, packets are copied to be wrapped, as before.
    pub(super) async fn make_next(&mut self, kernel: &Kernel) {
        let Some(bridge) = self.waiting.pop_first() else { return };
        self.asked.insert(bridge);
        match kernel.make_headroom(self.vni, bridge).await {
            Ok(()) => debug!(bridge, "pods leave room for outer headers in front of their packets"),
            Err(error) => debug!(bridge, "packets of pods are copied to be wrapped: {error:#}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bridge_is_asked_once_as_long_as_it_is_there() {
        let mut headroom = Headroom::new(1);
        let asked = |headroom: &mut Headroom| {
            let all = mem::take(&mut headroom.waiting);
            headroom.asked.extend(&all);
            all
        };
        for (there, expected) in [
            (&[3, 5][..], &[3, 5][..]),
            (&[3, 5], &[]),
            (&[5, 7], &[7]),
            (&[3, 5], &[3]),
            (&[], &[]),
            (&[5], &[5]),
        ] {
            headroom.follow(&there.iter().copied().collect());
            assert_eq!(headroom.is_waiting(), !expected.is_empty());
            assert_eq!(asked(&mut headroom), expected.iter().copied().collect(), "{there:?}");
        }
    }
}
