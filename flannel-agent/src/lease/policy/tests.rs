use std::net::Ipv4Addr;

use super::*;

const V4: &str = r#"{"Network": "10.1.0.0/16", "SubnetMin": "10.1.10.0", "SubnetMax": "10.1.90.0"}"#;
const SMALL: &str = r#"{"Network": "10.1.0.0/28"}"#;
const DUAL: &str = r#"{"Network": "10.1.0.0/16", "EnableIPv6": true, "IPv6Network": "fd44::/48"}"#;
const V6: &str = r#"{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd44::/48"}"#;
const US: PublicIps = PublicIps { v4: Some(Ipv4Addr::new(192, 168, 0, 1)), v6: None };
const OURS: &str = r#"{"PublicIP":"192.168.0.1"}"#;

fn key(text: &str) -> SubnetKey {
    text.parse().unwrap()
}

fn config(text: &str) -> NetworkConfig {
    NetworkConfig::parse(text).unwrap()
}

/// Returns an entry of the node with this address. If that is not an address, the value is spoilt.
fn entry(key: &str, holder: &str, lifetime: Lifetime) -> StoredLease<()> {
    let field = if holder.contains(':') { "PublicIPv6" } else { "PublicIP" };
    stored(key, &format!(r#"{{"{field}":"{holder}"}}"#), lifetime)
}

fn stored(key: &str, value: &str, lifetime: Lifetime) -> StoredLease<()> {
    let lease = RawLease::new(key.to_owned(), value.as_bytes().to_vec());
    StoredLease { lease, lifetime, version: () }
}

fn leases(leases: &[(&str, &str)]) -> Vec<StoredLease<()>> {
    leases.iter().map(|(key, holder)| entry(key, holder, Lifetime::Lease)).collect()
}

/// The subnet of a plan.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Reuse(SubnetKey),
    Create(SubnetKey),
    Nothing,
}

fn decide(
    net: &str,
    leases: &[StoredLease<()>],
    us: PublicIps,
    previous: Option<&str>,
    random: u64,
) -> Decision {
    decide_by(net, leases, us, &Traces { subnet: previous.map(key), ..Traces::default() }, random)
}

fn decide_by(net: &str, leases: &[StoredLease<()>], us: PublicIps, traces: &Traces, random: u64) -> Decision {
    let request = SubnetRequest { config: &config(net), us, value: OURS, traces };
    match plan(&request, leases, random).take {
        Some(Take::Reuse(subnet, upkeep)) => {
            assert_eq!(upkeep.entry.lease.key, subnet.to_string());
            Decision::Reuse(subnet)
        }
        Some(Take::Create(subnet)) => Decision::Create(subnet),
        None => Decision::Nothing,
    }
}

#[test]
fn our_own_entry_comes_before_the_previous_subnet_and_that_before_a_free_one() {
    use Decision::{Create, Nothing, Reuse};
    let ours = "192.168.0.1";
    let other = "192.168.0.2";
    for (what, net, held, previous, expected) in [
        ("an empty network", V4, vec![], None, Create(key("10.1.10.0-24"))),
        ("the lowest free one", V4, vec![("10.1.10.0-24", other)], None, Create(key("10.1.11.0-24"))),
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
        ("our own outside min and max", V4, vec![("10.1.9.0-24", ours)], None, Create(key("10.1.10.0-24"))),
        (
            "our own of another length",
            V4,
            vec![("10.1.20.0-25", ours)],
            Some("10.1.30.0-24"),
            Create(key("10.1.30.0-24")),
        ),
        (
            "the previous",
            V4,
            vec![("10.1.20.0-24", other)],
            Some("10.1.30.0-24"),
            Create(key("10.1.30.0-24")),
        ),
        ("previous, but it does not fit", V4, vec![], Some("10.1.91.0-24"), Create(key("10.1.10.0-24"))),
        (
            "previous, but taken",
            V4,
            vec![("10.1.30.0-24", other)],
            Some("10.1.30.0-24"),
            Create(key("10.1.10.0-24")),
        ),
        (
            "previous, but partly taken",
            V4,
            vec![("10.1.30.128-25", other)],
            Some("10.1.30.0-24"),
            Create(key("10.1.10.0-24")),
        ),
        (
            "a value nobody can read holds its subnet",
            V4,
            vec![("10.1.10.0-24", "?")],
            Some("10.1.10.0-24"),
            Create(key("10.1.11.0-24")),
        ),
        (
            "longer and shorter leases are in the way",
            V4,
            vec![("10.1.10.8-30", other), ("10.1.11.0-24", other), ("10.1.12.0-22", other)],
            None,
            Create(key("10.1.16.0-24")),
        ),
        (
            "nested leases",
            V4,
            vec![("10.1.8.0-21", other), ("10.1.8.0-24", other), ("10.1.12.0-30", other)],
            None,
            Create(key("10.1.16.0-24")),
        ),
        ("everything is taken", V4, vec![("10.0.0.0-8", other)], None, Nothing),
        (
            "the last one",
            SMALL,
            vec![("10.1.0.4-30", other), ("10.1.0.8-30", other)],
            None,
            Create(key("10.1.0.12-30")),
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
            Create(key("10.1.2.0-24&fd44:0:0:2::-64")),
        ),
        (
            "one family of an old lease is taken",
            DUAL,
            vec![("10.1.1.0-24", other)],
            None,
            Create(key("10.1.2.0-24&fd44:0:0:1::-64")),
        ),
        (
            "our own of one family only",
            DUAL,
            vec![("10.1.1.0-24", ours)],
            Some("10.1.1.0-24"),
            Create(key("10.1.2.0-24&fd44:0:0:1::-64")),
        ),
        (
            "IPv6 alone",
            V6,
            vec![("0.0.0.0-0&fd44:0:0:1::-64", "fd00::2")],
            None,
            Create(key("0.0.0.0-0&fd44:0:0:2::-64")),
        ),
    ] {
        let decision = decide(net, &leases(&held), US, previous, 0);
        assert_eq!(decision, expected, "{what}");
    }
}

#[test]
fn without_an_ipv4_address_the_ipv6_address_decides_who_holds_a_lease() {
    let us = PublicIps { v4: None, v6: Some("fd00::1".parse().unwrap()) };
    let held = leases(&[("0.0.0.0-0&fd44:0:0:1::-64", "fd00::2"), ("0.0.0.0-0&fd44:0:0:2::-64", "fd00::1")]);
    assert_eq!(decide(V6, &held, us, None, 0), Decision::Reuse(key("0.0.0.0-0&fd44:0:0:2::-64")));
    assert!(!PublicIps::default().same_node(&PublicIps::default()));
}

#[test]
fn the_choice_is_among_the_first_hundred() {
    let mut seen = std::collections::BTreeSet::new();
    for random in 0..1000 {
        let Decision::Create(key) = decide(r#"{"Network": "10.0.0.0/8"}"#, &[], US, None, random) else {
            panic!("nothing free")
        };
        seen.insert(key);
    }
    assert_eq!(seen.len(), 100);
    assert_eq!(seen.last(), Some(&key("10.0.100.0-24")));
}

#[test]
fn our_entries_that_do_not_fit_are_removed_unless_they_are_reservations() {
    let (ours, other) = ("192.168.0.1", "192.168.0.2");
    let entries = [
        entry("10.1.20.0-24", ours, Lifetime::Lease),
        entry("10.9.20.0-24", ours, Lifetime::Lease),
        entry("10.1.30.0-25", ours, Lifetime::Lease),
        entry("10.9.30.0-24", other, Lifetime::Lease),
        entry("10.9.40.0-24", ours, Lifetime::Reservation),
        entry("10.9.50.0-24", ours, Lifetime::Ended),
        entry("10.9.60.0-24", "?", Lifetime::Lease),
        entry("no-subnet", ours, Lifetime::Lease),
    ];
    let request = SubnetRequest { config: &config(V4), us: US, value: OURS, traces: &Traces::default() };
    let plan = plan(&request, &entries, 0);
    let outdated: Vec<_> = plan.outdated.iter().map(|(subnet, _)| *subnet).collect();
    assert_eq!(outdated, ["10.9.20.0-24", "10.1.30.0-25", "10.9.50.0-24"].map(key));
    assert_eq!(plan.unfit_reservations, [key("10.9.40.0-24")]);
}

#[test]
fn ended_leases_of_others_are_removed() {
    let (ours, other) = ("192.168.0.1", "192.168.0.2");
    for (name, holder, lifetime, removed) in [
        ("10.1.20.0-24", other, Lifetime::Ended, true),
        ("10.1.20.0-24", "?", Lifetime::Ended, true),
        ("10.9.20.0-24", other, Lifetime::Ended, true),
        ("10.1.20.0-24", ours, Lifetime::Ended, false),
        ("10.1.20.0-24", other, Lifetime::Lease, false),
        ("10.1.20.0-24", other, Lifetime::Reservation, false),
        ("README", other, Lifetime::Ended, false),
    ] {
        let subnet = ended_subnet(&entry(name, holder, lifetime), US);
        assert_eq!(subnet, removed.then(|| key(name)), "{name} of {holder}, {lifetime:?}");
    }
}

#[test]
fn a_lease_is_prolonged_a_reservation_is_not_and_another_value_is_overwritten() {
    use Lifetime::{Ended, Lease, Reservation};
    for (value, lifetime, write, prolong) in [
        (OURS, Lease, false, true),
        (OURS, Ended, false, true),
        (OURS, Reservation, false, false),
        ("{\"PublicIP\": \"192.168.0.1\"}\n", Lease, true, true),
        ("{\"PublicIP\": \"192.168.0.1\"}\n", Reservation, true, false),
    ] {
        let entry = stored("10.1.20.0-24", value, lifetime);
        let expected = Upkeep { entry: &entry, write, prolong };
        assert_eq!(renewal(Some(&entry), &[US], OURS), Ok(expected), "{value} {lifetime:?}");
        let entries = [entry.clone()];
        let request = SubnetRequest { config: &config(V4), us: US, value: OURS, traces: &Traces::default() };
        let expected = Upkeep { entry: &entries[0], write, prolong };
        let take = plan(&request, &entries, 0).take;
        assert_eq!(take, Some(Take::Reuse(key("10.1.20.0-24"), expected)), "{value} {lifetime:?}");
    }
}

#[test]
fn our_lease_is_lost_if_its_value_names_another_node_and_repaired_if_it_names_none() {
    let old = PublicIps { v4: Some([192, 168, 0, 7].into()), v6: None };
    let other = PublicIps { v4: Some([192, 168, 0, 2].into()), v6: None };
    for (value, expected) in [
        (OURS, Ok(false)),
        (r#"{"PublicIP":"192.168.0.1","BackendType":"vxlan"}"#, Ok(true)),
        (r#"{"PublicIP":"192.168.0.7"}"#, Ok(true)),
        ("", Ok(true)),
        ("overwritten by mistake", Ok(true)),
        ("{}", Ok(true)),
        (r#"{"PublicIP":"0.0.0.0"}"#, Ok(true)),
        (r#"{"PublicIP":"nowhere"}"#, Ok(true)),
        (r#"{"PublicIP":"192.168.0.2"}"#, Err(Loss::TakenBy(other))),
    ] {
        let entry = stored("10.1.20.0-24", value, Lifetime::Lease);
        let kept = renewal(Some(&entry), &[old, US], OURS);
        assert_eq!(kept.map(|upkeep| upkeep.write), expected, "{value}");
    }
    assert_eq!(renewal::<()>(None, &[old, US], OURS), Err(Loss::Gone));
}

#[test]
fn the_holder_of_our_entry_decides_whether_we_hold_the_subnet() {
    let other = PublicIps { v4: Some([192, 168, 0, 2].into()), v6: None };
    for (holder, expected) in [
        (Some(US), Standing::Held),
        (Some(PublicIps::default()), Standing::Spoilt),
        (Some(other), Standing::Lost(Loss::TakenBy(other))),
        (None, Standing::Lost(Loss::Gone)),
    ] {
        assert_eq!(standing(holder, US), expected, "{holder:?}");
    }
}

#[test]
fn a_lease_that_lasts_half_of_its_life_is_long_enough() {
    for (remaining, long) in [(TTL, true), (TTL / 2, true), (TTL / 2 - Duration::from_secs(1), false)] {
        assert_eq!(lasts_long_enough(remaining), long, "{remaining:?}");
    }
}

#[test]
fn a_subnet_is_found_soon_among_fifty_thousand_leases() {
    let subnet = |n: u32| ipnet::Ipv4Net::new(Ipv4Addr::from((10 << 24) + (n << 8)), 24).unwrap();
    let key = |n| SubnetKey { v4: Some(subnet(n)), v6: None };
    let leases: Vec<_> = (1..=50_000).map(|n| entry(&key(n).to_string(), "?", Lifetime::Lease)).collect();
    let start = std::time::Instant::now();
    let decision = decide(r#"{"Network": "10.0.0.0/8"}"#, &leases, US, None, 0);
    assert_eq!(decision, Decision::Create(key(50_001)));
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}

#[test]
fn an_entry_with_another_address_is_ours_if_two_of_subnet_address_and_mac_are() {
    const OUR_MAC: &str = "c6:d2:32:6f:8f:44";
    let lease = |address: &str, mac: &str| {
        let value = format!(
            r#"{{"PublicIP":"{address}","BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
        );
        [stored("10.1.20.0-24", &value, Lifetime::Lease)]
    };
    let was = "192.168.0.7";
    for (what, subnet, address, mac, ours) in [
        ("a clone of the machine's disk", None, false, true, false),
        ("a clone whose folder of subnet.env is on the disk", Some("10.1.20.0-24"), false, false, false),
        ("an address of a service that came from another node", None, true, false, false),
        ("such an address, and a subnet of its own", Some("10.1.30.0-24"), true, false, false),
        ("the address went while the agent was away", Some("10.1.20.0-24"), true, false, true),
        ("flanneld had chosen another address", Some("10.1.20.0-24"), false, true, true),
        ("the files are gone, the device is not", None, true, true, true),
    ] {
        let traces = Traces {
            subnet: subnet.map(key),
            addresses: address.then(|| was.parse().unwrap()).into_iter().collect(),
            macs: vec![OUR_MAC.parse().unwrap()],
        };
        let held = lease(was, if mac { OUR_MAC } else { "c6:d2:32:6f:8f:45" });
        let decision = decide_by(V4, &held, US, &traces, 0);
        assert_eq!(decision == Decision::Reuse(key("10.1.20.0-24")), ours, "{what}: {decision:?}");
    }
}

#[test]
fn the_subnet_of_the_last_run_comes_before_another_entry_with_our_address() {
    let mut held = leases(&[("10.1.20.0-24", "192.168.0.1"), ("10.1.30.0-24", "192.168.0.7")]);
    let traces = Traces {
        subnet: Some(key("10.1.30.0-24")),
        addresses: vec!["192.168.0.7".parse().unwrap()],
        macs: Vec::new(),
    };
    assert_eq!(decide_by(V4, &held, US, &traces, 0), Decision::Reuse(key("10.1.30.0-24")));
    held[1].lease.value = b"?".to_vec();
    assert_eq!(decide_by(V4, &held, US, &traces, 0), Decision::Reuse(key("10.1.20.0-24")));
}
