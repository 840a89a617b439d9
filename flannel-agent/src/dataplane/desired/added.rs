//! Peers that are added to a large cluster: their entries are computed without computing all others again.
//!
//! The result is the same, which a test checks. In doubtful cases all entries are computed.

use std::net::IpAddr;

use super::{Floor, FloorChanges, NEXTHOPS_FROM};
use crate::peer::Peer;

/// Returns the peers that were added, if nothing else has changed. Both slices have the same order.
#[must_use]
pub fn added_peers(before: &[Peer], now: &[Peer]) -> Option<Vec<Peer>> {
    let mut known = before.iter().peekable();
    let added = now.iter().filter(|peer| known.next_if_eq(peer).is_none()).cloned().collect();
    known.peek().is_none().then_some(added)
}

impl Floor {
    /// Adds the entries for these peers and returns them. Returns `None` and adds nothing if another peer has
    /// one of the keys, or if so many peers need another kind of routes.
    pub fn add_peers<'a>(
        &mut self,
        added: impl IntoIterator<Item = &'a Peer>,
        nexthops: bool,
    ) -> Option<FloorChanges> {
        let by_objects = !self.nexthops.is_empty();
        let more = Self::with_next_hops(added, by_objects);
        let over_ipv4 =
            |floor: &Self| floor.neighbours.iter().filter(|(gateway, _)| is_ipv4(gateway)).count();
        let many = over_ipv4(self) + over_ipv4(&more) >= NEXTHOPS_FROM;
        if by_objects != (many && nexthops) || !self.is_disjoint(&more) {
            return None;
        }
        let changes = Self::default().changes_to(&more);
        self.routes.extend(more.routes);
        self.nexthops.extend(more.nexthops);
        self.neighbours.extend(more.neighbours);
        self.fdb.extend(more.fdb);
        Some(changes)
    }

    fn is_disjoint(&self, other: &Self) -> bool {
        self.routes.is_disjoint(&other.routes)
            && self.nexthops.is_disjoint(&other.nexthops)
            && self.neighbours.is_disjoint(&other.neighbours)
            && self.fdb.is_disjoint(&other.fdb)
    }
}

fn is_ipv4(address: &IpAddr) -> bool {
    address.is_ipv4()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use ipnet::Ipv4Net;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::mac::Mac;

    /// Makes peers from few values, so that some share them.
    fn peer(number: u32) -> impl Strategy<Value = Peer> {
        (0..40_u8, prop::option::weighted(0.9, 0..60_u8)).prop_map(move |(node, mac)| Peer {
            subnet: Ipv4Net::new(Ipv4Addr::from_bits(number << 8), 24).unwrap().into(),
            public_ip: Ipv4Addr::new(192, 168, 64, node).into(),
            vtep_mac: mac.map(|mac| Mac([2, 0, 0, 0, 0, mac])),
        })
    }

    fn peers(of: std::ops::Range<u32>) -> impl Strategy<Value = Vec<(bool, Peer)>> {
        of.map(|number| (any::<bool>(), peer(number))).collect::<Vec<_>>()
    }

    proptest! {
        #[test]
        fn added_entries_are_those_of_a_full_computation(peers in peers(0..30), nexthops: bool) {
            let now: Vec<_> = peers.iter().map(|(_, peer)| peer.clone()).collect();
            let before: Vec<_> = peers.iter().filter(|(old, _)| *old).map(|(_, peer)| peer.clone()).collect();
            let added = added_peers(&before, &now).unwrap();
            prop_assert_eq!(added.len(), now.len() - before.len());
            let (was, anew) = (Floor::of(&before, nexthops), Floor::of(&now, nexthops));
            let mut extended = was.clone();
            match extended.add_peers(&added, nexthops) {
                Some(changes) => {
                    prop_assert_eq!(&changes, &was.changes_to(&anew));
                    prop_assert_eq!(extended, anew);
                }
                None => prop_assert_eq!(extended, was),
            }
        }

        #[test]
        fn a_removed_or_changed_peer_is_not_an_addition(peers in vec(peer(1), 1..5), index: prop::sample::Index) {
            let mut now = peers.clone();
            now.remove(index.index(peers.len()));
            prop_assert_eq!(added_peers(&peers, &now), None);
        }
    }

    #[test]
    fn a_change_to_another_kind_of_routes_is_computed_in_full() {
        let peer = |number: usize| Peer {
            subnet: Ipv4Net::new(Ipv4Addr::from_bits((number as u32) << 8), 24).unwrap().into(),
            public_ip: Ipv4Addr::LOCALHOST.into(),
            vtep_mac: Some(Mac((number as u64).to_be_bytes()[2..].try_into().unwrap())),
        };
        let peers: Vec<_> = (0..=NEXTHOPS_FROM).map(peer).collect();
        for (before, nexthops, adds) in [
            (NEXTHOPS_FROM - 2, true, true),
            (NEXTHOPS_FROM - 1, true, false),
            (NEXTHOPS_FROM - 1, false, true),
            (NEXTHOPS_FROM, true, true),
        ] {
            let mut floor = Floor::of(&peers[..before], nexthops);
            let changes = floor.add_peers(&peers[before..=before], nexthops);
            assert_eq!(changes.is_some(), adds, "{before} {nexthops}");
            assert_eq!(floor == Floor::of(&peers[..=before], nexthops), adds, "{before} {nexthops}");
        }
    }
}
