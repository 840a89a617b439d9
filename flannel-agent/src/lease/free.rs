//! Finds free subnets.

use std::iter;

use ipnet::IpNet;

use super::key::{SubnetKey, same_family};
use crate::config::{NetworkConfig, SubnetRange, number};

/// How many free subnets a choice is among, as with flannel: enough that racing nodes rarely choose the same.
const CANDIDATES: usize = 100;

/// Chooses one of the first free subnets of each address family by the number `random`.
pub(super) fn choose(config: &NetworkConfig, taken: &[SubnetKey], random: u64) -> Option<SubnetKey> {
    let choose = |range: SubnetRange| {
        let taken = taken.iter().flat_map(SubnetKey::nets);
        let candidates: Vec<IpNet> = subnets(range, taken).take(CANDIDATES).collect();
        let count = u64::try_from(candidates.len()).ok().filter(|count| *count > 0)?;
        candidates.get(usize::try_from(random % count).ok()?).copied()
    };
    let mut key = SubnetKey { v4: None, v6: None };
    for range in config.ranges() {
        match choose(range)? {
            IpNet::V4(net) => key.v4 = Some(net),
            IpNet::V6(net) => key.v6 = Some(net),
        }
    }
    Some(key)
}

/// Yields the subnets of `range` that overlap none of `taken`, lowest first, in one sweep over the sorted taken ones.
fn subnets(range: SubnetRange, taken: impl Iterator<Item = IpNet>) -> impl Iterator<Item = IpNet> {
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

/// Returns the first multiple of `size`, a power of two, above `end`.
fn after(end: u128, size: u128) -> Option<u128> {
    (end | (size - 1)).checked_add(1)
}

fn span(net: IpNet) -> (u128, u128) {
    (number(net.network()), number(net.broadcast()))
}
