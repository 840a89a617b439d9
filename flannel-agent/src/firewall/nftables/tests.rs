use super::super::rules::{RuleOptions, chains, none};
use super::*;

const ALL: RuleOptions = RuleOptions { masquerade: true, fully_random: true, forward: true };

fn script_for(options: RuleOptions, network: &str, subnet: &str) -> Option<String> {
    let (network, subnet) = (network.parse().unwrap(), subnet.parse().unwrap());
    script(IpVersion::of(network), &chains(options, network, subnet))
}

#[test]
fn the_table_has_flannels_names_and_replaces_an_existing_one() {
    assert_eq!(
        script_for(ALL, "10.5.0.0/16", "10.5.1.0/24").unwrap(),
        r#"add table ip flannel-ipv4
delete table ip flannel-ipv4
add table ip flannel-ipv4 { comment "rules for flannel-ipv4" ; }
add chain ip flannel-ipv4 postrtg { type nat hook postrouting priority 100 ; comment "chain to manage traffic masquerading by flannel" ; }
add rule ip flannel-ipv4 postrtg meta mark & 0x4000 == 0x4000 return
add rule ip flannel-ipv4 postrtg ip saddr 10.5.1.0/24 ip daddr 10.5.0.0/16 return
add rule ip flannel-ipv4 postrtg ip saddr 10.5.0.0/16 ip daddr 10.5.1.0/24 return
add rule ip flannel-ipv4 postrtg ip saddr != 10.5.0.0/16 ip daddr 10.5.1.0/24 return
add rule ip flannel-ipv4 postrtg ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
add rule ip flannel-ipv4 postrtg ip saddr != 10.5.0.0/16 ip daddr 10.5.0.0/16 masquerade fully-random
add chain ip flannel-ipv4 forward { type filter hook forward priority 0 ; comment "chain to accept flannel traffic" ; }
add rule ip flannel-ipv4 forward ip saddr 10.5.0.0/16 accept
add rule ip flannel-ipv4 forward ip daddr 10.5.0.0/16 accept
"#
    );
}

#[test]
fn ipv6_has_a_table_of_its_own() {
    let script =
        script_for(RuleOptions { fully_random: false, ..ALL }, "fd44::/48", "fd44:0:0:4b::/64").unwrap();
    for line in [
        "add rule ip6 flannel-ipv6 postrtg ip6 saddr fd44:0:0:4b::/64 ip6 daddr fd44::/48 return",
        "add rule ip6 flannel-ipv6 postrtg ip6 saddr fd44::/48 ip6 daddr != ff00::/8 masquerade",
        "add rule ip6 flannel-ipv6 forward ip6 daddr fd44::/48 accept",
    ] {
        assert!(script.lines().any(|written| written == line), "no {line:?} in {script}");
    }
}

#[test]
fn a_purpose_without_rules_has_no_chain() {
    let script = script_for(RuleOptions { masquerade: false, ..ALL }, "10.5.0.0/16", "10.5.1.0/24").unwrap();
    assert!(!script.contains("postrtg") && script.contains("forward"), "{script}");
    assert_eq!(
        script_for(RuleOptions { masquerade: false, forward: false, ..ALL }, "10.5.0.0/16", "10.5.1.0/24"),
        None
    );
    assert_eq!(super::script(IpVersion::V4, &none()), None);
}

/// Output of nft 1.0.6.
const ECHOED: &str = r#"{"nftables": [{"add": {"table": {"family": "ip", "name": "flannel-ipv4", "handle": 4}}},
    {"add": {"chain": {"family": "ip", "table": "flannel-ipv4", "name": "forward", "handle": 1, "type": "filter",
    "hook": "forward", "prio": 0, "policy": "accept"}}},
    {"add": {"rule": {"family": "ip", "table": "flannel-ipv4", "chain": "forward", "handle": 2, "expr": [{"accept": null}]}}},
    {"add": {"rule": {"family": "ip", "table": "flannel-ipv4", "chain": "forward", "handle": 3, "expr": [{"drop": null}]}}}]}"#;
const LISTED: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
    {"table": {"family": "ip", "name": "flannel-ipv4", "handle": 4}},
    {"chain": {"family": "ip", "table": "flannel-ipv4", "name": "forward", "handle": 1, "type": "filter",
    "hook": "forward", "prio": 0, "policy": "accept"}},
    {"rule": {"family": "ip", "table": "flannel-ipv4", "chain": "forward", "handle": 2, "expr": [{"accept": null}]}},
    {"rule": {"family": "ip", "table": "flannel-ipv4", "chain": "forward", "handle": 3, "expr": [{"drop": null}]}}]}"#;

#[test]
fn a_listing_equals_the_echo_unless_the_table_has_changed() {
    let echoed = objects(ECHOED).unwrap();
    assert_eq!(echoed.len(), 3);
    assert_eq!(objects(LISTED).unwrap(), echoed);
    for (name, from, to) in [
        ("another verdict", "accept\": null", "drop\": null"),
        ("another policy", "\"policy\": \"accept\"", "\"policy\": \"drop\""),
        ("deleted and added again", "\"handle\": 3", "\"handle\": 5"),
    ] {
        assert_ne!(objects(&LISTED.replace(from, to)).unwrap(), echoed, "{name}");
    }
    assert!(objects("table ip flannel-ipv4 {").is_err());
}
