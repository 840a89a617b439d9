use super::super::rules::{RuleOptions, chains};
use super::*;

const ALL: RuleOptions = RuleOptions { masquerade: true, fully_random: true, forward: true };

const OWN: &str = "10.5.0.0/16";

fn lines_for(options: RuleOptions, network: &str, subnet: &str) -> String {
    let (network, subnet) = (network.parse().unwrap(), subnet.parse().unwrap());
    let chains = chains(options, network, subnet);
    let chains: Vec<_> = chains.iter().filter(|chain| !chain.rules.is_empty()).collect();
    lines(IpVersion::of(network), &chains, network).join("\n")
}

#[test]
fn the_table_has_flannels_names_and_each_rule_its_network() {
    assert_eq!(
        lines_for(ALL, OWN, "10.5.1.0/24"),
        r#"add table ip flannel-ipv4 { comment "rules for flannel-ipv4" ; }
add chain ip flannel-ipv4 postrtg { type nat hook postrouting priority 100 ; comment "chain to manage traffic masquerading by flannel" ; }
add rule ip flannel-ipv4 postrtg meta mark & 0x4000 == 0x4000 return comment "10.5.0.0/16"
add rule ip flannel-ipv4 postrtg ip saddr 10.5.1.0/24 ip daddr 10.5.0.0/16 return comment "10.5.0.0/16"
add rule ip flannel-ipv4 postrtg ip saddr 10.5.0.0/16 ip daddr 10.5.1.0/24 return comment "10.5.0.0/16"
add rule ip flannel-ipv4 postrtg ip saddr != 10.5.0.0/16 ip daddr 10.5.1.0/24 return comment "10.5.0.0/16"
add rule ip flannel-ipv4 postrtg ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random comment "10.5.0.0/16"
add rule ip flannel-ipv4 postrtg ip saddr != 10.5.0.0/16 ip daddr 10.5.0.0/16 masquerade fully-random comment "10.5.0.0/16"
add chain ip flannel-ipv4 forward { type filter hook forward priority 0 ; comment "chain to accept flannel traffic" ; }
add rule ip flannel-ipv4 forward ip saddr 10.5.0.0/16 accept comment "10.5.0.0/16"
add rule ip flannel-ipv4 forward ip daddr 10.5.0.0/16 accept comment "10.5.0.0/16""#
    );
}

#[test]
fn ipv6_has_a_table_of_its_own() {
    let lines = lines_for(RuleOptions { fully_random: false, ..ALL }, "fd44::/48", "fd44:0:0:4b::/64");
    for line in [
        "add rule ip6 flannel-ipv6 postrtg ip6 saddr fd44:0:0:4b::/64 ip6 daddr fd44::/48 return",
        "add rule ip6 flannel-ipv6 postrtg ip6 saddr fd44::/48 ip6 daddr != ff00::/8 masquerade",
        "add rule ip6 flannel-ipv6 forward ip6 daddr fd44::/48 accept",
    ] {
        let line = format!("{line} comment \"fd44::/48\"");
        assert!(lines.lines().any(|written| written == line), "no {line:?} in {lines}");
    }
}

#[test]
fn a_purpose_without_rules_has_no_chain() {
    let lines = lines_for(RuleOptions { masquerade: false, ..ALL }, OWN, "10.5.1.0/24");
    assert!(!lines.contains("postrtg") && lines.contains("forward"), "{lines}");
}

/// Output of nft 1.0.6.
const ECHOED: &str = r#"{"nftables": [{"add": {"table": {"family": "ip", "name": "flannel-ipv4", "handle": 4}}},
    {"add": {"chain": {"family": "ip", "table": "flannel-ipv4", "name": "forward", "handle": 1, "type": "filter",
    "hook": "forward", "prio": 0, "policy": "accept"}}},
    {"add": {"rule": {"family": "ip", "table": "flannel-ipv4", "chain": "forward", "handle": 2, "expr": [{"accept": null}]}}},
    {"add": {"rule": {"family": "ip", "table": "flannel-ipv4", "chain": "forward", "handle": 3, "comment": "10.5.0.0/16", "expr": [{"drop": null}]}}}]}"#;
const LISTED: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
    {"table": {"family": "ip", "name": "flannel-ipv4", "handle": 4}},
    {"chain": {"family": "ip", "table": "flannel-ipv4", "name": "forward", "handle": 1, "type": "filter",
    "hook": "forward", "prio": 0, "policy": "accept"}},
    {"rule": {"family": "ip", "table": "flannel-ipv4", "chain": "forward", "handle": 2, "expr": [{"accept": null}]}},
    {"rule": {"family": "ip", "table": "flannel-ipv4", "chain": "forward", "handle": 3, "comment": "10.5.0.0/16", "expr": [{"drop": null}]}}]}"#;

fn networks(name: &str) -> Owner<'static> {
    Owner::Networks(vec![name.parse().unwrap()].leak())
}

#[test]
fn a_listing_equals_the_echo_unless_the_rules_have_changed() {
    let own = networks(OWN);
    let echoed = Listing::parse(ECHOED).unwrap().own(own);
    assert_eq!(echoed.len(), 2);
    assert_eq!(Listing::parse(LISTED).unwrap().own(own), echoed);
    for (name, from, to) in [
        ("another verdict", "accept\": null", "drop\": null"),
        ("deleted and added again", "\"handle\": 3", "\"handle\": 5"),
    ] {
        assert_ne!(Listing::parse(&LISTED.replace(from, to)).unwrap().own(own), echoed, "{name}");
    }
    assert!(Listing::parse("table ip flannel-ipv4 {").is_err());
}

#[test]
fn a_chain_with_another_place_or_policy_is_found() {
    let wrong = |text: &str| Listing::parse(text).unwrap().has_wrong_chain();
    assert!(!wrong(LISTED));
    for (from, to) in [
        ("\"accept\"}}", "\"drop\"}}"),
        ("\"prio\": 0", "\"prio\": 7"),
        ("\"forward\", \"prio", "\"input\", \"prio"),
    ] {
        assert!(wrong(&LISTED.replace(from, to)), "{to}");
    }
}

#[test]
fn rules_of_other_networks_are_left() {
    let listing = Listing::parse(LISTED).unwrap();
    let (own, other) = (networks(OWN), networks("10.6.0.0/16"));
    assert!(!listing.has_others(own) && listing.has_others(other) && !listing.has_others(Owner::Everyone));
    let table = "ip flannel-ipv4";
    let first = "delete rule ip flannel-ipv4 forward handle 2";
    assert_eq!(listing.removals(table, other), [first]);
    let rest = ["delete rule ip flannel-ipv4 forward handle 3", "delete chain ip flannel-ipv4 forward"];
    assert_eq!(listing.removals(table, own), [first, rest[0], rest[1]]);
}
