//! Properties that hold for any leases, checked by trying every subnet.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::config::number;
use crate::lease::key::overlap;

/// Fifteen subnets of a /28, four of a /30, eight of a /64, and both.
const CONFIGS: [&str; 4] = [
    r#"{"Network": "10.1.0.0/24", "SubnetLen": 28}"#,
    r#"{"Network": "10.1.0.0/24", "SubnetLen": 30, "SubnetMin": "10.1.0.8", "SubnetMax": "10.1.0.20"}"#,
    r#"{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd44::/61"}"#,
    r#"{"Network": "10.1.0.0/24", "SubnetLen": 28, "EnableIPv6": true, "IPv6Network": "fd44::/61"}"#,
];

fn configs() -> impl Strategy<Value = NetworkConfig> {
    prop::sample::select(&CONFIGS[..]).prop_map(|text| NetworkConfig::parse(text).unwrap())
}

/// Generates subnets in the networks and around them, of the right length and of others.
fn keys() -> impl Strategy<Value = SubnetKey> {
    let v4 = (0..300u32, 26..31u8)
        .prop_map(|(n, len)| ipnet::Ipv4Net::new(Ipv4Addr::from(0x0a01_0000 + n), len).unwrap().trunc());
    let v6 = (0..10u16, 63..66u8).prop_map(|(n, len)| {
        ipnet::Ipv6Net::new(Ipv6Addr::from([0xfd44, 0, 0, n, 0, 0, 0, 0]), len).unwrap().trunc()
    });
    (option::weighted(0.7, v4), option::weighted(0.7, v6))
        .prop_filter("a subnet", |(v4, v6)| v4.is_some() || v6.is_some())
        .prop_map(|(v4, v6)| SubnetKey { v4, v6 })
}

/// Generates one of few nodes, or none.
fn holders() -> impl Strategy<Value = PublicIps> {
    (0..8u8).prop_map(|n| match n {
        0 => PublicIps::default(),
        n => node(n),
    })
}

fn node(n: u8) -> PublicIps {
    PublicIps { v4: Some([192, 168, 0, n].into()), v6: Some([0xfd00, 0, 0, 0, 0, 0, 0, n.into()].into()) }
}

fn entry(key: SubnetKey, holder: PublicIps) -> StoredLease<()> {
    let value = serde_json::json!({ "PublicIP": holder.v4, "PublicIPv6": holder.v6 }).to_string();
    let lease = RawLease::new(key.to_string(), value.into_bytes());
    StoredLease { lease, lifetime: Lifetime::Lease, version: () }
}

fn leases() -> impl Strategy<Value = Vec<(SubnetKey, PublicIps)>> {
    vec((keys(), holders()), 0..25)
}

fn take(
    config: &NetworkConfig,
    leases: &[(SubnetKey, PublicIps)],
    us: PublicIps,
    previous: Option<SubnetKey>,
    random: u64,
) -> Option<(bool, SubnetKey)> {
    let entries: Vec<_> = leases.iter().map(|(key, holder)| entry(*key, *holder)).collect();
    let traces = Traces { subnet: previous, ..Traces::default() };
    let take = plan(&SubnetRequest { config, us, value: "", traces: &traces }, &entries, random).take?;
    Some((matches!(take, Take::Reuse(..)), take.subnet()))
}

/// Returns all subnets of a range.
fn all(range: SubnetRange) -> impl Iterator<Item = IpNet> {
    let mut base = number(range.min);
    std::iter::from_fn(move || {
        let subnet = (base <= number(range.max)).then(|| range.subnet_at(base))?;
        base += range.subnet_size();
        subnet
    })
}

/// Returns whether each address family has a subnet left.
fn something_is_free(config: &NetworkConfig, leases: &[(SubnetKey, PublicIps)]) -> bool {
    let is_free =
        |net: IpNet| !leases.iter().flat_map(|(key, _)| key.nets()).any(|taken| overlap(taken, net));
    [config.ipv4, config.ipv6].into_iter().flatten().all(|range| all(range).any(is_free))
}

proptest! {
    #[test]
    fn the_first_possible_choice_is_taken(
        config in configs(),
        leases in leases(),
        previous in option::of(keys()),
        random: u64,
    ) {
        let us = node(1);
        let ours: Vec<_> =
            leases.iter().filter(|(_, holder)| us.same_node(holder)).map(|(key, _)| *key).collect();
        let has_fitting = ours.iter().any(|key| fits(&config, key));
        let is_free = |key: &SubnetKey| !leases.iter().any(|(taken, _)| taken.overlaps(key));
        match take(&config, &leases, us, previous, random) {
            Some((true, key)) => {
                prop_assert!(ours.contains(&key) && fits(&config, &key), "{key} is not ours");
                let was_ours = previous.filter(|previous| ours.contains(previous));
                prop_assert!(was_ours.is_none_or(|previous| !fits(&config, &previous) || previous == key));
            }
            Some((false, key)) => {
                prop_assert!(!has_fitting && fits(&config, &key) && is_free(&key), "{key}");
                let possible = previous.filter(|previous| fits(&config, previous) && is_free(previous));
                prop_assert!(possible.is_none_or(|previous| previous == key), "{key}");
            }
            None => prop_assert!(!has_fitting && !something_is_free(&config, &leases)),
        }
    }

    #[test]
    fn one_trace_alone_changes_nothing(
        config in configs(),
        leases in leases(),
        us in 1..8u8,
        addresses in vec(1..8u8, 0..4),
        random: u64,
    ) {
        let addresses = addresses.into_iter().flat_map(|n| node(n).addresses()).collect();
        let traces = Traces { addresses, ..Traces::default() };
        let entries: Vec<_> = leases.iter().map(|(key, holder)| entry(*key, *holder)).collect();
        let of = |traces: &Traces| {
            let request = SubnetRequest { config: &config, us: node(us), value: "", traces };
            plan(&request, &entries, random).take.map(|take| take.subnet())
        };
        prop_assert_eq!(of(&traces), of(&Traces::default()));
    }

    #[test]
    fn all_subnets_can_be_taken_one_after_the_other(config in configs(), random: u64) {
        let mut leases = Vec::new();
        let count = [config.ipv4, config.ipv6].into_iter().flatten().map(|range| all(range).count()).min().unwrap();
        for n in 0..count {
            let us = node(u8::try_from(n + 1).unwrap());
            let taken = take(&config, &leases, us, None, random.rotate_left(n as u32));
            let Some((false, key)) = taken else { panic!("{n} of {count} taken, and {taken:?}") };
            leases.push((key, us));
        }
        prop_assert_eq!(take(&config, &leases, node(200), None, random), None);
    }
}
