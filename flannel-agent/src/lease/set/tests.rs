use super::*;
use crate::lease::key::KeyError;
use crate::lease::policy::Loss;

mod holding;

const OWN: &str = "10.5.1.0-24";
const PEER: &str = "10.5.2.0-24";
const MAC: &str = "c6:d2:32:6f:8f:44";

fn config(text: &str) -> NetworkConfig {
    NetworkConfig::parse(text).unwrap()
}

fn set() -> LeaseSet {
    LeaseSet::new(
        &config(r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan"}}"#),
        OWN.parse().unwrap(),
    )
}

fn dual_set() -> LeaseSet {
    let config = config(
        r#"{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd44::/48", "Backend": {"Type": "vxlan"}}"#,
    );
    LeaseSet::new(&config, "10.5.1.0-24&fd44:0:0:1::-64".parse().unwrap())
}

fn value(ip: &str, mac: &str) -> String {
    format!(
        r#"{{"PublicIP":"{ip}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
    )
}

fn lease(key: &str, value: &str) -> RawLease {
    RawLease::new(key.to_owned(), value.as_bytes().to_vec())
}

fn put(key: &str, value: &str) -> LeaseUpdate {
    LeaseUpdate::Put(lease(key, value))
}

/// Returns the peers as text: subnet, address, MAC.
fn peers(set: &LeaseSet) -> Vec<String> {
    set.peers()
        .iter()
        .map(|peer| format!("{} {} {}", peer.subnet, peer.public_ip, peer.vtep_mac.unwrap()))
        .collect()
}

fn own_ip(set: &LeaseSet) -> Option<String> {
    set.own.as_ref().and_then(|own| own.holder.v4).map(|ip| ip.to_string())
}

#[test]
fn a_list_in_place_of_an_object_is_no_lease() {
    let mut set = set();
    let data = format!(r#"[1, "{MAC}"]"#);
    for text in [
        format!(r#"["192.168.0.2", null, "vxlan", {{"VNI": 1, "VtepMAC": "{MAC}"}}]"#),
        format!(r#"{{"PublicIP": "192.168.0.2", "BackendType": "vxlan", "BackendData": {data}}}"#),
    ] {
        let refusals = set.apply(put("10.5.2.0-24", &text));
        assert!(refusals[0].to_string().contains("a list instead of a JSON object"), "{refusals:?}");
        assert_eq!(peers(&set), [""; 0]);
    }
}

#[test]
fn a_refusal_is_one_line_whatever_the_key_and_the_value() {
    let text = |key, value: &str| {
        let text = set().apply(put(key, value))[0].to_string();
        assert!(!text.contains(char::is_control), "{text:?}");
        text
    };
    let of_key = text("10.5.2.0-24\nINFO all is well\x1b[2J", "");
    assert!(of_key.starts_with(r"lease 10.5.2.0-24\nINFO all is well\u{1b}[2J not used: "), "{of_key}");
    // JSON may have some control characters as they are.
    let data = r#"{"PublicIP": "192.168.0.2", "BackendType": "vxlan", "BackendData": "#;
    let of_data = text("10.5.2.0-24", &format!("{data}\"\x7f\u{9b}2J\"}}"));
    assert!(of_data.ends_with("the text \"??2J\" is not JSON"), "{of_data}");
}

#[test]
fn entries_are_refused_one_by_one() {
    let overlaps = || RefusalReason::OverlapsOwn { own: OWN.parse().unwrap() };
    let good = value("192.168.0.2", MAC);
    for (key, text, reason) in [
        ("garbage", good.as_str(), RefusalReason::Key(KeyError::Form("garbage".into()))),
        (
            "10.5.3.1-24",
            &good,
            RefusalReason::Key(KeyError::HostBits {
                key: "10.5.3.1-24".into(),
                subnet: "10.5.3.0/24".parse().unwrap(),
            }),
        ),
        (
            "10.6.3.0-24",
            &good,
            RefusalReason::OutsideNetwork {
                subnet: "10.6.3.0/24".parse().unwrap(),
                network: "10.5.0.0/16".parse().unwrap(),
            },
        ),
        ("10.5.1.0-25", &good, overlaps()),
        ("10.5.0.0-16", &good, overlaps()),
        ("0.0.0.0-0", &good, overlaps()),
        ("0.0.0.0-0&fd44:0:0:4b::-64", &good, RefusalReason::OtherFamily),
        (PEER, "", RefusalReason::Value("EOF while parsing a value at line 1 column 0".into())),
        (
            PEER,
            "\"text\"",
            RefusalReason::Value(
                "invalid type: string \"text\", expected struct LeaseAttrs at line 1 column 6".into(),
            ),
        ),
        (
            PEER,
            r#"{"PublicIP":"nowhere"}"#,
            RefusalReason::Value("invalid IPv4 address syntax at line 1 column 21".into()),
        ),
        (
            PEER,
            r#"{"PublicIP":"192.168.0.2","PublicIPv6":null,"BackendType":"host-gw"}"#,
            RefusalReason::OtherBackend { lease: "host-gw".into(), node: "vxlan" },
        ),
        (
            PEER,
            r#"{"PublicIP":"192.168.0.2","PublicIPv6":null}"#,
            RefusalReason::OtherBackend { lease: String::new(), node: "vxlan" },
        ),
        (PEER, &value("0.0.0.0", MAC), RefusalReason::NoPublicIp("PublicIP")),
        (PEER, &value("224.0.0.1", MAC), RefusalReason::NoPublicIp("PublicIP")),
        (
            PEER,
            r#"{"BackendType":"vxlan","BackendData":{"VtepMAC":"c6:d2:32:6f:8f:44"}}"#,
            RefusalReason::NoPublicIp("PublicIP"),
        ),
        (
            PEER,
            r#"{"PublicIP":"192.168.0.2","BackendType":"vxlan"}"#,
            RefusalReason::NoVtepMac { field: "BackendData", problem: "BackendData is missing".into() },
        ),
        (
            PEER,
            r#"{"PublicIP":"192.168.0.2","BackendType":"vxlan","BackendData":{"VNI":1}}"#,
            RefusalReason::NoVtepMac {
                field: "BackendData",
                problem: "missing field `VtepMAC` at line 1 column 9".into(),
            },
        ),
        (
            PEER,
            &value("192.168.0.2", "01:00:5e:00:00:01"),
            RefusalReason::NoVtepMac {
                field: "BackendData",
                problem: "01:00:5e:00:00:01 is not the address of one device".into(),
            },
        ),
        (
            PEER,
            r#"{"PublicIP":"192.168.0.2","BackendType":"vxlan","BackendData":{"VNI":2,"VtepMAC":"c6:d2:32:6f:8f:44"}}"#,
            RefusalReason::OtherVni { lease: 2, node: 1 },
        ),
    ] {
        let mut set = set();
        set.apply(put("10.5.9.0-24", &value("192.168.0.9", MAC)));
        let refusals = set.apply(put(key, text));
        assert_eq!(refusals, [Refusal { key: key.into(), node: None, reason }], "{key} {text}");
        assert_eq!(peers(&set), [format!("10.5.9.0/24 192.168.0.9 {MAC}")], "{key} {text}");
    }
}

#[test]
fn a_refusal_names_the_lease_and_the_reason() {
    let refusals = set().apply(put("10.6.3.0-24", ""));
    let message = refusals[0].to_string();
    assert_eq!(message, "lease 10.6.3.0-24 not used: 10.6.3.0/24 is outside the network 10.5.0.0/16");
}

#[test]
fn an_older_flannels_value_has_no_vni() {
    let mut set = set();
    let old =
        r#"{"PublicIP":"192.168.0.2","BackendType":"vxlan","BackendData":{"VtepMAC":"c6:d2:32:6f:8f:44"}}"#;
    assert_eq!(set.apply(put(PEER, old)), []);
    assert_eq!(peers(&set), [format!("10.5.2.0/24 192.168.0.2 {MAC}")]);
}

#[test]
fn a_bad_value_leaves_the_good_lease() {
    let mut set = set();
    set.apply(put(PEER, &value("192.168.0.2", MAC)));
    let before = peers(&set);
    assert_eq!(set.apply(put(PEER, "{")).len(), 1);
    assert_eq!(peers(&set), before);
    set.apply(LeaseUpdate::Snapshot(vec![lease(PEER, "{")]));
    assert_eq!(peers(&set), before);
    set.apply(put(PEER, &value("192.168.0.3", MAC)));
    assert_eq!(peers(&set), [format!("10.5.2.0/24 192.168.0.3 {MAC}")]);
    set.apply(LeaseUpdate::Delete(PEER.into()));
    assert_eq!(peers(&set), [""; 0]);
}

#[test]
fn each_refused_value_is_reported_once() {
    let mut set = set();
    let bad = |text: &str| LeaseUpdate::Snapshot(vec![lease("junk", text), lease(PEER, text)]);
    assert_eq!(set.apply(bad("1")).len(), 2);
    assert_eq!(set.apply(bad("1")).len(), 0);
    assert_eq!(set.apply(put(PEER, "1")).len(), 0);
    assert_eq!(set.apply(put(PEER, "2")).len(), 1);
    assert_eq!(set.apply(put(PEER, &value("192.168.0.2", MAC))).len(), 0);
    assert_eq!(set.apply(put(PEER, "2")).len(), 1);
    set.apply(LeaseUpdate::Delete("junk".into()));
    assert_eq!(set.apply(put("junk", "1")).len(), 1);
}

#[test]
fn what_a_snapshot_lacks_is_gone() {
    let mut set = set();
    let first = vec![lease(OWN, &value("192.168.0.1", MAC)), lease(PEER, &value("192.168.0.2", MAC))];
    set.apply(LeaseUpdate::Snapshot(first.clone()));
    assert_eq!(own_ip(&set).as_deref(), Some("192.168.0.1"));
    let once = peers(&set);
    set.apply(LeaseUpdate::Snapshot(first));
    assert_eq!(peers(&set), once);
    set.apply(LeaseUpdate::Snapshot(vec![lease("10.5.3.0-24", &value("192.168.0.3", MAC))]));
    assert_eq!(peers(&set), [format!("10.5.3.0/24 192.168.0.3 {MAC}")]);
    assert!(set.own.is_none());
}

#[test]
fn the_last_event_counts_and_keys_do_not_mix() {
    let (first, second) = (value("192.168.0.2", MAC), value("192.168.0.3", MAC));
    let delete = || LeaseUpdate::Delete(PEER.into());
    for (events, expected) in [
        (vec![put(PEER, &first), put(PEER, &second)], vec!["10.5.2.0/24 192.168.0.3"]),
        (vec![put(PEER, &second), put(PEER, &first), put(PEER, &first)], vec!["10.5.2.0/24 192.168.0.2"]),
        (vec![put(PEER, &first), delete(), delete()], vec![]),
        (vec![delete(), put(PEER, &first)], vec!["10.5.2.0/24 192.168.0.2"]),
        (
            vec![put("10.5.4.0-24", &second), put(PEER, &first), LeaseUpdate::Delete("junk".into())],
            vec!["10.5.2.0/24 192.168.0.2", "10.5.4.0/24 192.168.0.3"],
        ),
    ] {
        let mut set = set();
        for event in events {
            assert_eq!(set.apply(event), []);
        }
        let expected: Vec<String> = expected.into_iter().map(|peer| format!("{peer} {MAC}")).collect();
        assert_eq!(peers(&set), expected);
    }
}

#[test]
fn of_leases_that_overlap_the_first_counts_until_it_is_gone() {
    let other = value("192.168.0.3", MAC);
    for second in ["10.5.2.0-25", "10.5.2.0-23", "10.5.2.128-25", "10.5.2.0-24&fd44::-64"] {
        let mut set = set();
        set.apply(put(PEER, &value("192.168.0.2", MAC)));
        let before = peers(&set);
        let reason = RefusalReason::OverlapsPeer { other: PEER.parse().unwrap(), node: None };
        assert_eq!(set.apply(put(second, &other)), [Refusal { key: second.into(), node: None, reason }]);
        assert_eq!(peers(&set), before, "{second}");
        // Neither a change of the first lease nor a snapshot of both changes that.
        set.apply(put(PEER, &value("192.168.0.4", MAC)));
        let both = vec![lease(second, &other), lease(PEER, &value("192.168.0.4", MAC))];
        assert_eq!(set.apply(LeaseUpdate::Snapshot(both)), []);
        assert_eq!(peers(&set), [format!("10.5.2.0/24 192.168.0.4 {MAC}")], "{second}");
        assert_eq!(set.apply(LeaseUpdate::Delete(PEER.into())), []);
        assert_eq!(set.peers().len(), 1, "{second}");
        assert!(peers(&set)[0].contains("192.168.0.3"), "{second}: {:?}", peers(&set));
    }
}

#[test]
fn the_own_lease_is_watched_and_is_no_peer() {
    let mut set = set();
    assert!(set.own.is_none());
    set.apply(put(OWN, &value("192.168.0.1", MAC)));
    assert_eq!((own_ip(&set).as_deref(), set.peers().len()), (Some("192.168.0.1"), 0));
    assert_eq!(set.apply(put(OWN, "{")).len(), 1);
    assert_eq!(own_ip(&set).as_deref(), Some("192.168.0.1"));
    set.apply(put(OWN, &value("192.168.0.7", MAC)));
    assert_eq!(own_ip(&set).as_deref(), Some("192.168.0.7"));
    set.apply(LeaseUpdate::Delete(OWN.into()));
    assert!(set.own.is_none());
}

#[test]
fn a_dual_stack_lease_is_a_peer_in_both_families() {
    let mut set = dual_set();
    let both = r#"{"PublicIP":"192.168.0.2","PublicIPv6":"fd00::2","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"},"BackendV6Data":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:45"}}"#;
    assert_eq!(set.apply(put("10.5.2.0-24&fd44:0:0:2::-64", both)), []);
    assert_eq!(
        peers(&set),
        ["10.5.2.0/24 192.168.0.2 c6:d2:32:6f:8f:44", "fd44:0:0:2::/64 fd00::2 c6:d2:32:6f:8f:45"]
    );
    let refusals = set.apply(put("10.5.3.0-24&fd44:0:0:3::-64", &value("192.168.0.3", MAC)));
    assert_eq!(refusals[0].reason, RefusalReason::NoPublicIp("PublicIPv6"));
    let refusals = set.apply(put("10.5.4.0-24&fd44:0:0:1::-64", both));
    assert!(matches!(refusals[0].reason, RefusalReason::OverlapsOwn { .. }));
    // The lease of a node from before IPv6 was enabled.
    assert_eq!(set.apply(put("10.5.5.0-24", &value("192.168.0.5", MAC))), []);
    assert_eq!(set.peers().len(), 3);
}

#[test]
fn other_backends_have_peers_without_a_mac() {
    let bare = r#"{"PublicIP":"192.168.0.2","PublicIPv6":null}"#;
    let host_gw = r#"{"PublicIP":"192.168.0.2","PublicIPv6":null,"BackendType":"host-gw"}"#;
    let vxlan = value("192.168.0.2", MAC);
    for (backend, value, refused) in [
        ("host-gw", host_gw, false),
        ("host-gw", bare, true),
        ("host-gw", &vxlan, true),
        ("udp", bare, false),
        ("udp", host_gw, true),
        ("alloc", bare, false),
        ("alloc", &vxlan, true),
    ] {
        let config = config(&format!(r#"{{"Network": "10.5.0.0/16", "Backend": {{"Type": "{backend}"}}}}"#));
        let mut set = LeaseSet::new(&config, OWN.parse().unwrap());
        let refusals = set.apply(put(PEER, value));
        let message = refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("");
        assert_eq!(
            message.ends_with(&format!("this node's is {backend:?}")),
            refused,
            "{backend}: {message}"
        );
        let peer = Peer {
            subnet: "10.5.2.0/24".parse().unwrap(),
            public_ip: "192.168.0.2".parse().unwrap(),
            vtep_mac: None,
        };
        assert_eq!(set.peers(), if refused { vec![] } else { vec![peer] }, "{backend} {value}");
    }
}

#[test]
fn the_own_entry_says_whether_the_lease_is_held_spoilt_or_lost() {
    let ips = |ip: &str| PublicIps { v4: ip.parse().ok(), v6: None };
    let (us, other) = (ips("192.168.0.1"), ips("192.168.0.7"));
    let mut set = set();
    let mut after = |update| {
        set.apply(update);
        set.standing(us)
    };
    assert_eq!(after(LeaseUpdate::Snapshot(vec![])), Standing::Lost(Loss::Gone));
    assert_eq!(after(put(OWN, &value("192.168.0.1", MAC))), Standing::Held);
    for spoilt in ["{", "", "{}", r#"{"PublicIP":"0.0.0.0"}"#] {
        assert_eq!(after(put(OWN, spoilt)), Standing::Spoilt, "{spoilt}");
        assert_eq!(after(LeaseUpdate::Snapshot(vec![lease(OWN, spoilt)])), Standing::Spoilt, "{spoilt}");
    }
    assert_eq!(after(put(OWN, &value("192.168.0.1", MAC))), Standing::Held);
    assert_eq!(after(put(OWN, &value("192.168.0.7", MAC))), Standing::Lost(Loss::TakenBy(other)));
    assert_eq!(after(LeaseUpdate::Delete(OWN.into())), Standing::Lost(Loss::Gone));
}
