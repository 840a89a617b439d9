use super::*;

const V4: &str = r#"{"Network": "10.1.0.0/16", "SubnetMin": "10.1.10.0", "SubnetMax": "10.1.90.0"}"#;
const SMALL: &str = r#"{"Network": "10.1.0.0/28"}"#;
const DUAL: &str = r#"{"Network": "10.1.0.0/16", "EnableIPv6": true, "IPv6Network": "fd44::/48"}"#;
const V6: &str = r#"{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd44::/48"}"#;
const US: PublicIps = PublicIps { v4: Some(Ipv4Addr::new(192, 168, 0, 1)), v6: None };

fn key(text: &str) -> SubnetKey {
    text.parse().unwrap()
}

fn taken(leases: &[(&str, &str)]) -> Vec<Taken> {
    let holder = |ip: &str| PublicIps { v4: ip.parse().ok(), v6: ip.parse().ok() };
    leases.iter().map(|(subnet, ip)| Taken { key: key(subnet), holder: holder(ip) }).collect()
}

fn config(text: &str) -> NetworkConfig {
    NetworkConfig::parse(text).unwrap()
}

#[test]
fn the_order_is_ours_previous_free() {
    use Decision::{Free, None as Nothing, Previous, Reuse};
    let ours = "192.168.0.1";
    let other = "192.168.0.2";
    for (what, net, leases, previous, expected) in [
        ("an empty network", V4, vec![], None, Free(key("10.1.10.0-24"))),
        ("the lowest free one", V4, vec![("10.1.10.0-24", other)], None, Free(key("10.1.11.0-24"))),
        (
            "our own",
            V4,
            vec![("10.1.10.0-24", other), ("10.1.20.0-24", ours)],
            Some("10.1.30.0-24"),
            Reuse(key("10.1.20.0-24")),
        ),
        (
            "of our own the previous",
            V4,
            vec![("10.1.20.0-24", ours), ("10.1.30.0-24", ours), ("10.1.40.0-24", ours)],
            Some("10.1.30.0-24"),
            Reuse(key("10.1.30.0-24")),
        ),
        ("our own outside min and max", V4, vec![("10.1.9.0-24", ours)], None, Free(key("10.1.10.0-24"))),
        (
            "our own of another length",
            V4,
            vec![("10.1.20.0-25", ours)],
            Some("10.1.30.0-24"),
            Previous(key("10.1.30.0-24")),
        ),
        (
            "the previous",
            V4,
            vec![("10.1.20.0-24", other)],
            Some("10.1.30.0-24"),
            Previous(key("10.1.30.0-24")),
        ),
        ("previous, but it does not fit", V4, vec![], Some("10.1.91.0-24"), Free(key("10.1.10.0-24"))),
        (
            "previous, but taken",
            V4,
            vec![("10.1.30.0-24", other)],
            Some("10.1.30.0-24"),
            Free(key("10.1.10.0-24")),
        ),
        (
            "previous, but partly taken",
            V4,
            vec![("10.1.30.128-25", other)],
            Some("10.1.30.0-24"),
            Free(key("10.1.10.0-24")),
        ),
        (
            "a value nobody can read holds its subnet",
            V4,
            vec![("10.1.10.0-24", "?")],
            Some("10.1.10.0-24"),
            Free(key("10.1.11.0-24")),
        ),
        (
            "longer and shorter leases are in the way",
            V4,
            vec![("10.1.10.8-30", other), ("10.1.11.0-24", other), ("10.1.12.0-22", other)],
            None,
            Free(key("10.1.16.0-24")),
        ),
        (
            "nested leases",
            V4,
            vec![("10.1.8.0-21", other), ("10.1.8.0-24", other), ("10.1.12.0-30", other)],
            None,
            Free(key("10.1.16.0-24")),
        ),
        ("everything is taken", V4, vec![("10.0.0.0-8", other)], None, Nothing),
        (
            "the last one",
            SMALL,
            vec![("10.1.0.4-30", other), ("10.1.0.8-30", other)],
            None,
            Free(key("10.1.0.12-30")),
        ),
        (
            "none left",
            SMALL,
            vec![("10.1.0.4-30", other), ("10.1.0.8-30", other), ("10.1.0.12-30", other)],
            None,
            Nothing,
        ),
        (
            "both families",
            DUAL,
            vec![("10.1.1.0-24&fd44:0:0:1::-64", other)],
            None,
            Free(key("10.1.2.0-24&fd44:0:0:2::-64")),
        ),
        (
            "one family of an old lease is taken",
            DUAL,
            vec![("10.1.1.0-24", other)],
            None,
            Free(key("10.1.2.0-24&fd44:0:0:1::-64")),
        ),
        (
            "our own of one family only",
            DUAL,
            vec![("10.1.1.0-24", ours)],
            Some("10.1.1.0-24"),
            Free(key("10.1.2.0-24&fd44:0:0:1::-64")),
        ),
        (
            "IPv6 alone",
            V6,
            vec![("0.0.0.0-0&fd44:0:0:1::-64", "fd00::2")],
            None,
            Free(key("0.0.0.0-0&fd44:0:0:2::-64")),
        ),
    ] {
        let decision = decide(&config(net), &taken(&leases), US, previous.map(key), 0);
        assert_eq!(decision, expected, "{what}");
    }
}

#[test]
fn without_ipv4_the_ipv6_address_says_whose_a_lease_is() {
    let us = PublicIps { v4: None, v6: Some("fd00::1".parse().unwrap()) };
    let leases = taken(&[("0.0.0.0-0&fd44:0:0:1::-64", "fd00::2"), ("0.0.0.0-0&fd44:0:0:2::-64", "fd00::1")]);
    let decision = decide(&config(V6), &leases, us, None, 0);
    assert_eq!(decision, Decision::Reuse(key("0.0.0.0-0&fd44:0:0:2::-64")));
    assert!(!PublicIps::default().same_node(&PublicIps::default()));
}

#[test]
fn the_choice_is_among_the_first_hundred() {
    let config = config(r#"{"Network": "10.0.0.0/8"}"#);
    let mut seen = std::collections::BTreeSet::new();
    for random in 0..1000 {
        let Decision::Free(key) = decide(&config, &[], US, None, random) else { panic!("nothing free") };
        seen.insert(key);
    }
    assert_eq!(seen.len(), 100);
    assert_eq!(seen.last(), Some(&key("10.0.100.0-24")));
}

#[test]
fn outdated_leases_are_ours_and_do_not_fit() {
    let leases = taken(&[
        ("10.1.20.0-24", "192.168.0.1"),
        ("10.9.20.0-24", "192.168.0.1"),
        ("10.1.30.0-25", "192.168.0.1"),
        ("10.9.30.0-24", "192.168.0.2"),
    ]);
    let found: Vec<_> = outdated(&config(V4), &leases, US).collect();
    assert_eq!(found, [key("10.9.20.0-24"), key("10.1.30.0-25")]);
}

#[test]
fn fifty_thousand_leases_take_no_time() {
    let holder = PublicIps::default();
    let subnet = |n: u32| ipnet::Ipv4Net::new(Ipv4Addr::from((10 << 24) + (n << 8)), 24).unwrap();
    let leases: Vec<Taken> =
        (1..=50_000).map(|n| Taken { key: SubnetKey { v4: Some(subnet(n)), v6: None }, holder }).collect();
    let start = std::time::Instant::now();
    let decision = decide(&config(r#"{"Network": "10.0.0.0/8"}"#), &leases, US, None, 0);
    assert_eq!(decision, Decision::Free(SubnetKey { v4: Some(subnet(50_001)), v6: None }));
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}
