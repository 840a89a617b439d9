//! Two nodes with one public IP, as cloned machines have: each takes the other's lease for its own. Pure.
//!
//! Only the MACs of their devices differ. A node that takes a lease remembers the MAC that it has replaced. If that MAC comes
//! back, its node is alive and was first: this node gives way. If any other MAC comes, its node is new: this one writes its own
//! again. A node that was installed anew replaces a MAC that nobody writes again, and keeps its lease.

use crate::mac::Mac;

/// Another node that has written its MAC into our lease, with our public IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rival {
    /// The MAC of its vxlan device.
    pub mac: Mac,
    /// Whether it had the lease before us.
    pub was_first: bool,
}

/// Returns who else has written our lease. `entry`: the MACs in it; `own`: ours; `replaced`: those that we have replaced when
/// we took the lease.
#[must_use]
pub fn rival(entry: &[Mac], own: &[Mac], replaced: &[Mac]) -> Option<Rival> {
    let mac = *entry.iter().find(|mac| !own.contains(mac) && !own.is_empty())?;
    Some(Rival { mac, was_first: replaced.contains(&mac) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = Mac([2, 0, 0, 0, 0, 0xa]);
    const B: Mac = Mac([2, 0, 0, 0, 0, 0xb]);
    const C: Mac = Mac([2, 0, 0, 0, 0, 0xc]);

    #[test]
    fn the_node_whose_mac_comes_back_was_first() {
        let rival_of = |mac, was_first| Some(Rival { mac, was_first });
        for (entry, own, replaced, expected) in [
            (&[A][..], &[A][..], &[][..], None),
            (&[A], &[A], &[B], None),
            (&[B], &[A], &[], rival_of(B, false)),
            (&[B], &[A], &[C], rival_of(B, false)),
            (&[B], &[A], &[B], rival_of(B, true)),
            // Both address families.
            (&[A, C], &[A, C], &[], None),
            (&[A], &[A, C], &[], None),
            (&[A, B], &[A, C], &[B], rival_of(B, true)),
            // Backends without devices.
            (&[], &[A], &[B], None),
            (&[B], &[], &[B], None),
        ] {
            assert_eq!(rival(entry, own, replaced), expected, "{entry:?}, {own:?}, {replaced:?}");
        }
    }

    /// Whatever MAC a node has replaced when it started, two nodes that see each other's writes settle: one gives way.
    #[test]
    fn of_two_nodes_one_gives_way() {
        for first_replaced in [&[][..], &[C], &[B]] {
            // The second node has started after the first one, and has replaced its MAC.
            let (mut entry, mut has_given_way) = (B, [false, false]);
            let nodes = [(A, first_replaced), (B, &[A][..])];
            for _ in 0..4 {
                for (n, (own, replaced)) in
                    nodes.into_iter().enumerate().filter(|(n, _)| !has_given_way[*n]).collect::<Vec<_>>()
                {
                    match rival(&[entry], &[own], replaced) {
                        Some(Rival { was_first: true, .. }) => has_given_way[n] = true,
                        Some(_) => entry = own,
                        None => {}
                    }
                }
            }
            assert_eq!(has_given_way.iter().filter(|given| **given).count(), 1, "{first_replaced:?}");
            assert_eq!(entry, nodes[usize::from(has_given_way[0])].0, "{first_replaced:?}");
        }
    }
}
