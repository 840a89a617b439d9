use std::collections::BTreeSet;

use super::*;
use crate::netfilter::{iptables, nft};

/// Rule sets that other programs write, and what they do with outer packets.
const KUBERNETES: &str = include_str!("rule_sets/kubernetes-canal-docker.rules");
const UFW: &str = include_str!("rule_sets/ufw.rules");
const WIREGUARD: &str = include_str!("rule_sets/wireguard.rules");
const KUBE_PROXY: &str = include_str!("rule_sets/kube-proxy.json");
const FIREWALLD: &str = include_str!("rule_sets/firewalld.json");
const WG_QUICK: &str = include_str!("rule_sets/wg-quick.json");
const MULLVAD: &str = include_str!("rule_sets/mullvad.json");
const SHAPES: &str = include_str!("rule_sets/shapes.json");

fn fate(tables: &[Table]) -> Fate {
    let destinations = ["192.168.64.2", "192.168.64.3"].map(|address| address.parse().unwrap()).into();
    let source = "192.168.64.1".parse().unwrap();
    judge(tables, Packets { source, destinations: &destinations, port: 8472, interface: "eth0" })
}

fn of_iptables(saved: &str) -> Fate {
    fate(&iptables::parse(saved, "iptables"))
}

fn of_nft(listing: &str) -> Fate {
    let listing = serde_json::from_str(listing).unwrap();
    let names = nft::tables(&listing, false);
    let tables: Vec<_> = names.iter().map(|(family, name)| nft::parse(&listing, family, name)).collect();
    assert_eq!(tables.len(), 1, "{names:?}");
    fate(&tables)
}

/// Returns the fate in short: `stop`, `change`, marks, `any`.
fn short(fate: &Fate) -> String {
    let mut words = Vec::new();
    words.extend(fate.stopped.as_ref().map(|_| "stop".to_owned()));
    words.extend(fate.changed.as_ref().map(|_| "change".to_owned()));
    words.extend(fate.marks.iter().map(|mark| format!("{mark:#x}")));
    words.extend(fate.any_mark.as_ref().map(|_| "any".to_owned()));
    words.join(" ")
}

#[test]
fn what_kubernetes_canal_docker_firewalld_ufw_and_wireguard_write_does_not_concern_outer_packets() {
    for saved in [KUBERNETES, UFW, WIREGUARD, ""] {
        assert_eq!(of_iptables(saved), Fate::default(), "{saved}");
    }
    for listing in [KUBE_PROXY, FIREWALLD, WG_QUICK] {
        assert_eq!(of_nft(listing), Fate::default(), "{listing}");
    }
}

#[test]
fn the_same_rule_sets_concern_outer_packets_with_one_change() {
    let dns = r#""elem": ["10.96.0.1", "10.96.0.10"]"#;
    let to_peers = r#""elem": [{"prefix": {"addr": "192.168.64.0", "len": 24}}]"#;
    assert!(KUBE_PROXY.contains(dns));
    for (listing, expected) in [
        (KUBE_PROXY.replace(dns, to_peers), "stop"),
        (KUBE_PROXY.replace("10.96.0.9", "192.168.64.2"), "stop"),
        (FIREWALLD.replace("198.51.100.0", "192.168.64.0"), "stop"),
        (FIREWALLD.replace("198.51.100.0", "192.168.64.0").replace("eth0", "eth1"), ""),
        (FIREWALLD.replace("198.51.100.0", "192.168.64.0").replace("established", "new"), ""),
    ] {
        assert_eq!(short(&of_nft(&listing)), expected);
    }
    for (saved, expected) in [
        (KUBERNETES.replace("-d 10.96.0.9/32", "-d 192.168.64.2/32"), "stop"),
        (KUBERNETES.replace("! --ctstate DNAT", "--ctstate DNAT").replace("10.96.0.9", "192.168.64.9"), ""),
        (UFW.replace("OUTPUT ACCEPT", "OUTPUT DROP"), ""),
        (UFW.replace("OUTPUT ACCEPT", "OUTPUT DROP").replace("-p udp -m conn", "-p icmp -m conn"), "stop"),
        (WIREGUARD.replace("-A POSTROUTING -p udp -m mark --mark 0xca6c", "-A OUTPUT -p udp"), ""),
        (
            WIREGUARD
                .replace("-A PREROUTING -p udp", "-A OUTPUT -p udp")
                .replace("wg0 -m addrtype ! --src-type LOCAL", "wg0"),
            "any",
        ),
    ] {
        assert_eq!(short(&of_iptables(&saved)), expected, "{saved}");
    }
}

#[test]
fn a_rule_of_iptables_counts_if_it_can_match_outer_packets_and_stops_or_changes_them() {
    for (table, rules, expected) in [
        ("filter", "-A OUTPUT -p udp -m udp --dport 8472 -j DROP", "stop"),
        ("raw", "-A OUTPUT -d 192.168.64.3/32 -j DROP", "stop"),
        ("filter", "-A OUTPUT -p udp -m multiport --dports 53,8000:9000 -j REJECT", "stop"),
        ("filter", "-A OUTPUT -p udp -m multiport --dports 53,9000 -j REJECT", ""),
        ("filter", "-A OUTPUT -p tcp -m tcp --dport 8472 -j DROP", ""),
        ("filter", "-A OUTPUT ! -p tcp -j DROP", "stop"),
        ("filter", "-A OUTPUT ! -p udp -j DROP", ""),
        ("filter", "-A OUTPUT -o eth+ -j NFQUEUE --queue-num 1", "stop"),
        ("filter", "-A OUTPUT ! -o eth0 -j DROP", ""),
        ("filter", "-A OUTPUT -s 192.168.65.0/24 -j DROP", ""),
        ("filter", "-A OUTPUT ! -d 192.168.64.0/24 -j DROP", ""),
        ("filter", "-A OUTPUT -m iprange --dst-range 192.168.64.3-192.168.64.9 -j DROP", "stop"),
        ("filter", "-A OUTPUT -m addrtype --dst-type LOCAL -j DROP", ""),
        ("filter", "-A OUTPUT -m owner --uid-owner 0 -j DROP", ""),
        ("filter", "-A OUTPUT -m owner ! --uid-owner 0 -j DROP", "stop"),
        ("filter", "-A OUTPUT -m conntrack --ctstate INVALID -j DROP", ""),
        ("filter", "-A OUTPUT -m conntrack --ctstate NEW -j DROP", "stop"),
        // What is not known counts.
        ("filter", "-A OUTPUT -m set --match-set bad dst -j DROP", "stop"),
        ("filter", "-A OUTPUT -m physdev --physdev-is-bridged -j DROP", "stop"),
        ("filter", "-A OUTPUT -m string --string \" -j ACCEPT \" --algo bm -j DROP", "stop"),
        ("filter", "-A OUTPUT -m limit --limit 5/sec -j ACCEPT\n-A OUTPUT -j DROP", "stop"),
        ("filter", "-A OUTPUT -m comment --comment \"-j DROP\" -j ACCEPT\n-A OUTPUT -j DROP", ""),
        ("filter", "-A OUTPUT -d 192.168.64.2/32 -j ACCEPT\n-A OUTPUT -j DROP", "stop"),
        ("filter", "-A OUTPUT -d 192.168.64.0/30 -j ACCEPT\n-A OUTPUT -j DROP", ""),
        // Chains.
        ("filter", ":a -\n-A OUTPUT -j a\n-A OUTPUT -j DROP\n-A a -p udp -j ACCEPT", ""),
        ("filter", ":a -\n-A OUTPUT -j a\n-A OUTPUT -j DROP\n-A a -p udp -j RETURN\n-A a -j ACCEPT", "stop"),
        ("filter", ":a -\n-A OUTPUT -g a\n-A OUTPUT -j DROP\n-A a -j LOG", ""),
        ("filter", ":a -\n-A OUTPUT -p tcp -j a\n-A a -j DROP", ""),
        ("filter", ":a -\n-A OUTPUT -j a\n-A a -j a", ""),
        ("filter", "-A INPUT -j DROP\n-A FORWARD -j DROP", ""),
        // Changes.
        ("mangle", "-A POSTROUTING -p udp -j DSCP --set-dscp 0x0a", "change"),
        ("mangle", "-A OUTPUT -j TOS --set-tos 0x10/0xff", "change"),
        ("mangle", "-A POSTROUTING -o eth0 -j CLASSIFY --set-class 0001:0002", "change"),
        ("mangle", "-A OUTPUT -p tcp -j TOS --set-tos 0x10/0xff", ""),
        ("mangle", "-A OUTPUT -j LOG --log-prefix \"x \"", ""),
        ("raw", "-A OUTPUT -p udp -m udp --dport 8472 -j CT --notrack", ""),
        // Marks.
        ("mangle", "-A OUTPUT -p udp -m udp --dport 8472 -j MARK --set-xmark 0x2a/0xffffffff", "0x2a"),
        ("mangle", "-A OUTPUT -j MARK --set-xmark 0x4/0x4\n-A OUTPUT -j MARK --set-xmark 0x8/0x8", "0xc"),
        ("mangle", "-A OUTPUT -j MARK --set-xmark 0x4/0x4\n-A OUTPUT -j MARK --set-xmark 0x0/0xf", ""),
        ("mangle", "-A OUTPUT -m u32 --u32 \"0=1\" -j MARK --set-xmark 0x5/0xffffffff", "0x5"),
        ("mangle", "-A POSTROUTING -j MARK --set-xmark 0x5/0xffffffff", ""),
        ("filter", "-A OUTPUT -m mark --mark 0x8000/0x8000 -j DROP", ""),
        ("filter", "-A OUTPUT -m mark ! --mark 0x1 -j DROP", "stop"),
        ("filter", "-A OUTPUT -m connmark --mark 0x1 -j DROP", "stop"),
    ] {
        let saved = format!(
            "*{table}\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\n{rules}\nCOMMIT"
        );
        assert_eq!(short(&of_iptables(&saved)), expected, "{table}: {rules}");
    }
}

#[test]
fn a_table_sees_the_marks_of_those_before_it() {
    let mark = "*mangle\n:OUTPUT ACCEPT\n-A OUTPUT -j MARK --set-xmark 0x8000/0x8000";
    let drop = "*filter\n:OUTPUT ACCEPT\n-A OUTPUT -m mark --mark 0x8000/0x8000 -j DROP";
    assert_eq!(short(&of_iptables(&format!("{drop}\n{mark}"))), "stop 0x8000");
    let drop = drop.replace("filter", "raw");
    assert_eq!(short(&of_iptables(&format!("{drop}\n{mark}"))), "0x8000");
}

#[test]
fn a_rule_of_nft_counts_if_it_can_match_outer_packets_and_stops_or_changes_them() {
    // A policy that drops, and marks by the cgroup of a process.
    assert_eq!(short(&of_nft(MULLVAD)), "stop");
    let fate = of_nft(SHAPES);
    assert_eq!(short(&fate), "change 0x2a any");
    assert_eq!(fate.changed.unwrap(), "nft -a list chain inet shapes stamp, handle 5");
    let meta = |key| format!(r#"{{"meta": {{"key": "{key}"}}}}"#);
    let payload =
        |protocol, field| format!(r#"{{"payload": {{"protocol": "{protocol}", "field": "{field}"}}}}"#);
    let compare = |operator, left, right| {
        format!(r#"{{"match": {{"op": "{operator}", "left": {left}, "right": {right}}}}}"#)
    };
    let (udp, mark) = (payload("udp", "dport"), meta("mark"));
    for (tests, expected) in [
        (compare("==", udp.clone(), "8472"), "stop"),
        (compare("!=", udp.clone(), "8472"), ""),
        (compare(">=", udp.clone(), "8472"), "stop"),
        (compare(">", udp.clone(), "8472"), ""),
        (compare("<", udp.clone(), "8472"), ""),
        (compare("==", udp, r#"{"set": [53, {"range": [8000, 9000]}]}"#), "stop"),
        (compare("==", payload("tcp", "dport"), "8472"), ""),
        (compare("!=", payload("tcp", "dport"), "1"), ""),
        (compare("==", payload("th", "sport"), "1"), "stop"),
        (compare("==", payload("ip6", "daddr"), r#""::1""#), ""),
        (compare("!=", payload("ip6", "daddr"), r#""::1""#), ""),
        (compare("==", payload("ip", "protocol"), r#""udp""#), "stop"),
        (compare("==", meta("l4proto"), r#"{"set": ["tcp", "udp"]}"#), "stop"),
        (compare("==", meta("nfproto"), r#""ipv6""#), ""),
        (compare("==", meta("oifname"), r#""eth*""#), "stop"),
        (compare("==", meta("oifname"), r#"{"set": ["lo", "wg*"]}"#), ""),
        (compare("==", meta("iifname"), r#""eth0""#), ""),
        (compare("==", meta("skuid"), "0"), ""),
        (compare("==", mark.clone(), "0"), "stop"),
        (compare("==", format!(r#"{{"&": [{mark}, 16]}}"#), "16"), ""),
        (compare("==", payload("ip", "daddr"), r#""@unknown""#), "stop"),
        (compare("==", r#"{"fib": {"result": "type", "flags": ["daddr"]}}"#.into(), r#""local""#), ""),
        (r#"{"limit": {"rate": 5, "per": "second"}}"#.into(), "stop"),
    ] {
        let listing = format!(
            r#"{{"nftables": [
                {{"chain": {{"family": "inet", "table": "t", "name": "o", "type": "filter", "hook": "output", "prio": 0}}}},
                {{"rule": {{"table": "t", "chain": "o", "handle": 1, "expr": [{tests}, {{"counter": {{}}}}, {{"drop": null}}]}}}}
            ]}}"#
        );
        assert_eq!(short(&of_nft(&listing)), expected, "{tests}");
    }
}

#[test]
fn without_peers_no_packets_are_sent() {
    let none = BTreeSet::new();
    let packets = Packets { source: Ipv4Addr::LOCALHOST, destinations: &none, port: 8472, interface: "eth0" };
    let tables = iptables::parse("*filter\n:OUTPUT ACCEPT\n-A OUTPUT -d 10.0.0.1/32 -j DROP", "iptables");
    assert_eq!(judge(&tables, packets), Fate::default());
}
