//! The free subnets of a range, lowest first, in one sweep over the sorted taken ones.

use std::iter;

use ipnet::IpNet;

use crate::config::{SubnetRange, number};

/// Yields the subnets of `range` that overlap none of `taken`.
pub(super) fn subnets(range: SubnetRange, taken: impl Iterator<Item = IpNet>) -> impl Iterator<Item = IpNet> {
    let mut taken: Vec<(u128, u128)> =
        taken.filter(|net| same_family(*net, range.network)).map(span).collect();
    taken.sort_unstable();
    let mut taken = taken.into_iter().peekable();

    let size = range.subnet_size();
    let last = number(range.max);
    let mut next = Some(number(range.min));
    iter::from_fn(move || {
        loop {
            let base = next.filter(|base| *base <= last)?;
            while taken.next_if(|(_, end)| *end < base).is_some() {}
            match taken.peek() {
                Some((start, end)) if *start <= base + (size - 1) => next = after(*end, size),
                _ => {
                    next = base.checked_add(size);
                    return range.subnet_at(base);
                }
            }
        }
    })
}

/// The first multiple of `size`, a power of two, above `end`.
fn after(end: u128, size: u128) -> Option<u128> {
    (end | (size - 1)).checked_add(1)
}

fn span(net: IpNet) -> (u128, u128) {
    (number(net.network()), number(net.broadcast()))
}

fn same_family(one: IpNet, other: IpNet) -> bool {
    matches!((one, other), (IpNet::V4(_), IpNet::V4(_)) | (IpNet::V6(_), IpNet::V6(_)))
}
