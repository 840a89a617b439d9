//! Nodes that join a large cluster: what they add is found without making everything anew.
//!
//! The result is the same, which is tested. Where that is not obvious everything is made anew.

use std::net::IpAddr;

use super::{Floor, FloorChanges, NEXTHOPS_FROM};
use crate::peer::Peer;

/// The peers that have come to those before, if nothing else is different. Both in the same order.
#[must_use]
pub fn joined(before: &[Peer], now: &[Peer]) -> Option<Vec<Peer>> {
    let mut known = before.iter().peekable();
    let joined = now.iter().filter(|peer| known.next_if_eq(peer).is_none()).cloned().collect();
    known.peek().is_none().then_some(joined)
}

impl Floor {
    /// Adds what these peers need, and returns it. `None`, with nothing done, if some of it is there already for
    /// somebody else, or the routes of so many are written otherwise.
    pub fn add_peers<'a>(
        &mut self,
        joined: impl IntoIterator<Item = &'a Peer>,
        nexthops: bool,
    ) -> Option<FloorChanges> {
        let by_objects = !self.nexthops.is_empty();
        let more = Self::written(joined, by_objects);
        let over_ipv4 =
            |floor: &Self| floor.neighbours.iter().filter(|(gateway, _)| is_ipv4(gateway)).count();
        let many = over_ipv4(self) + over_ipv4(&more) >= NEXTHOPS_FROM;
        if by_objects != (many && nexthops) || !self.is_apart_from(&more) {
            return None;
        }
        let changes = Self::default().changes_to(&more);
        self.routes.extend(more.routes);
        self.nexthops.extend(more.nexthops);
        self.neighbours.extend(more.neighbours);
        self.fdb.extend(more.fdb);
        Some(changes)
    }

    fn is_apart_from(&self, other: &Self) -> bool {
        self.routes.is_apart_from(&other.routes)
            && self.nexthops.is_apart_from(&other.nexthops)
            && self.neighbours.is_apart_from(&other.neighbours)
            && self.fdb.is_apart_from(&other.fdb)
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

    /// Few values, so that they meet.
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
        fn what_is_added_is_what_making_anew_would_give(crowd in peers(0..30), nexthops: bool) {
            let now: Vec<_> = crowd.iter().map(|(_, peer)| peer.clone()).collect();
            let before: Vec<_> = crowd.iter().filter(|(old, _)| *old).map(|(_, peer)| peer.clone()).collect();
            let joined = joined(&before, &now).unwrap();
            prop_assert_eq!(joined.len(), now.len() - before.len());
            let (was, anew) = (Floor::of(&before, nexthops), Floor::of(&now, nexthops));
            let mut grown = was.clone();
            match grown.add_peers(&joined, nexthops) {
                Some(changes) => {
                    prop_assert_eq!(&changes, &was.changes_to(&anew));
                    prop_assert_eq!(grown, anew);
                }
                None => prop_assert_eq!(grown, was),
            }
        }

        #[test]
        fn whoever_changed_or_went_did_not_join(crowd in vec(peer(1), 1..5), index: prop::sample::Index) {
            let mut now = crowd.clone();
            now.remove(index.index(crowd.len()));
            prop_assert_eq!(joined(&crowd, &now), None);
        }
    }

    #[test]
    fn a_crowd_whose_routes_are_written_otherwise_is_made_anew() {
        let peer = |number: usize| Peer {
            subnet: Ipv4Net::new(Ipv4Addr::from_bits((number as u32) << 8), 24).unwrap().into(),
            public_ip: Ipv4Addr::LOCALHOST.into(),
            vtep_mac: Some(Mac((number as u64).to_be_bytes()[2..].try_into().unwrap())),
        };
        let crowd: Vec<_> = (0..=NEXTHOPS_FROM).map(peer).collect();
        for (before, nexthops, grows) in [
            (NEXTHOPS_FROM - 2, true, true),
            (NEXTHOPS_FROM - 1, true, false),
            (NEXTHOPS_FROM - 1, false, true),
            (NEXTHOPS_FROM, true, true),
        ] {
            let mut floor = Floor::of(&crowd[..before], nexthops);
            let changes = floor.add_peers(&crowd[before..=before], nexthops);
            assert_eq!(changes.is_some(), grows, "{before} {nexthops}");
            assert_eq!(floor == Floor::of(&crowd[..=before], nexthops), grows, "{before} {nexthops}");
        }
    }
}
