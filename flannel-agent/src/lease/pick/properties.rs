//! What holds for any leases: compared with looking at every subnet there is.

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

/// Subnets in the networks, and around them, of the right length and of others.
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

/// One of few nodes, or nobody.
fn holders() -> impl Strategy<Value = PublicIps> {
    (0..8u8).prop_map(|n| match n {
        0 => PublicIps::default(),
        n => node(n),
    })
}

fn node(n: u8) -> PublicIps {
    PublicIps { v4: Some([192, 168, 0, n].into()), v6: Some([0xfd00, 0, 0, 0, 0, 0, 0, n.into()].into()) }
}

fn leases() -> impl Strategy<Value = Vec<Taken>> {
    vec((keys(), holders()).prop_map(|(key, holder)| Taken { key, holder }), 0..25)
}

/// All subnets of a range, one by one.
fn all(range: SubnetRange) -> impl Iterator<Item = IpNet> {
    let mut base = number(range.min);
    std::iter::from_fn(move || {
        let subnet = (base <= number(range.max)).then(|| range.subnet_at(base))?;
        base += range.subnet_size();
        subnet
    })
}

/// Whether each family has a subnet left, so that there is a key.
fn something_is_free(config: &NetworkConfig, leases: &[Taken]) -> bool {
    let is_free =
        |net: IpNet| !leases.iter().flat_map(|lease| lease.key.nets()).any(|taken| overlap(taken, net));
    [config.ipv4, config.ipv6].into_iter().flatten().all(|range| all(range).any(is_free))
}

proptest! {
    #[test]
    fn the_decision_is_the_first_that_is_possible(
        config in configs(),
        leases in leases(),
        previous in option::of(keys()),
        random: u64,
    ) {
        let us = node(1);
        let mut ours = leases.iter().filter(|lease| us.same_node(&lease.holder) && fits(&config, &lease.key));
        let is_free = |key: &SubnetKey| !leases.iter().any(|lease| lease.key.overlaps(key));
        match decide(&config, &leases, us, previous, random) {
            Decision::Reuse(key) => {
                prop_assert!(ours.any(|lease| lease.key == key), "{key} is not ours");
                let ours: Vec<_> = leases.iter().filter(|lease| us.same_node(&lease.holder)).collect();
                let was_ours = previous.filter(|previous| ours.iter().any(|lease| lease.key == *previous));
                prop_assert!(was_ours.is_none_or(|previous| !fits(&config, &previous) || previous == key));
            }
            Decision::Previous(key) => {
                prop_assert_eq!(Some(key), previous);
                prop_assert!(ours.next().is_none() && fits(&config, &key) && is_free(&key));
            }
            Decision::Free(key) => {
                prop_assert!(ours.next().is_none() && fits(&config, &key) && is_free(&key), "{key}");
                prop_assert!(previous.is_none_or(|previous| !fits(&config, &previous) || !is_free(&previous)));
            }
            Decision::None => prop_assert!(ours.next().is_none() && !something_is_free(&config, &leases)),
        }
    }

    #[test]
    fn nodes_that_take_one_after_the_other_get_all_there_is(config in configs(), random: u64) {
        let mut leases = Vec::new();
        let count = [config.ipv4, config.ipv6].into_iter().flatten().map(|range| all(range).count()).min().unwrap();
        for n in 0..count {
            let us = node(u8::try_from(n + 1).unwrap());
            let decision = decide(&config, &leases, us, None, random.rotate_left(n as u32));
            let Decision::Free(key) = decision else { panic!("{n} of {count} taken, and {decision:?}") };
            leases.push(Taken { key, holder: us });
        }
        prop_assert_eq!(decide(&config, &leases, node(200), None, random), Decision::None);
    }
}
