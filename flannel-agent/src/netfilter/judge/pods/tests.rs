use super::*;
use crate::netfilter::{iptables, nft};

const KUBERNETES: &str = include_str!("../rule_sets/kubernetes-canal-docker.rules");
const UFW: &str = include_str!("../rule_sets/ufw.rules");
const WIREGUARD: &str = include_str!("../rule_sets/wireguard.rules");
const KUBE_ROUTER: &str = include_str!("../rule_sets/kube-router.rules");
const KUBE_PROXY: &str = include_str!("../rule_sets/kube-proxy.json");
const FIREWALLD: &str = include_str!("../rule_sets/firewalld.json");
const WG_QUICK: &str = include_str!("../rule_sets/wg-quick.json");
const KUBE_NETWORK_POLICIES: &str = include_str!("../rule_sets/kube-network-policies.json");

/// Returns the packets that rules look at, in short.
fn of(tables: &[Table]) -> String {
    let networks = ["10.244.0.0/16", "fd44::/48"].map(|network| network.parse().unwrap());
    let interfaces = ["cni0", "flannel.1", "eth0"].map(str::to_owned).into();
    let looks = looks(tables, Pods { networks: &networks, interfaces: &interfaces });
    let packets: Vec<_> = looks.iter().flat_map(|look| &look.packets).map(Selector::to_string).collect();
    packets.join("; ")
}

fn of_iptables(saved: &str) -> String {
    of(&iptables::parse(saved, "iptables"))
}

fn of_nft(listing: &str) -> String {
    let listing = serde_json::from_str(listing).unwrap();
    let names = nft::tables(&listing, false);
    let tables: Vec<_> = names.iter().map(|(family, name)| nft::parse(&listing, family, name)).collect();
    assert_eq!(tables.len(), 1, "{names:?}");
    of(&tables)
}

#[test]
fn what_kubernetes_policy_controllers_docker_firewalld_ufw_and_wireguard_write_looks_at_first_packets() {
    for saved in [KUBERNETES, UFW, WIREGUARD, KUBE_ROUTER] {
        assert_eq!(of_iptables(saved), "", "{saved}");
    }
    for listing in [KUBE_PROXY, FIREWALLD, WG_QUICK] {
        assert_eq!(of_nft(listing), "", "{listing}");
    }
}

#[test]
fn the_same_rule_sets_look_at_each_packet_with_one_change() {
    let router = KUBE_ROUTER.replace("RELATED,ESTABLISHED", "RELATED").replace("-j NFLOG", "-j DROP");
    assert_eq!(of_iptables(&router), "TCP and UDP to 10.244.1.7/32; TCP and UDP from 10.244.1.7/32");
}

/// It gives the label to connections that it has accepted, looks at each packet of the others, and at all of DNS. Which flows of its
/// pods those are is not known.
#[test]
fn kube_network_policies_looks_at_each_packet_of_connections_without_its_label() {
    let looked_at: BTreeSet<_> = of_nft(KUBE_NETWORK_POLICIES).split("; ").map(str::to_owned).collect();
    let pods = ["10.244.1.7/32", "10.244.1.8/32", "fd44:0:0:1::7/128"];
    let expected = pods.iter().flat_map(|pod| ["from", "to"].map(|end| format!("TCP and UDP {end} {pod}")));
    assert_eq!(looked_at, expected.collect());
    let label = r#"{"match": {"op": "in", "left": {"ct": {"key": "label"}}, "right": 100}}, "#;
    let without = KUBE_NETWORK_POLICIES.replacen(label, "", 1);
    assert_eq!(of_nft(&without.replace(r#""hook": "prerouting""#, r#""hook": "input""#)), "");
}

#[test]
fn a_rule_of_iptables_looks_at_each_packet_if_its_answer_may_differ_among_those_of_a_flow() {
    for (table, rules, expected) in [
        ("filter", "-A FORWARD -p tcp -m tcp --dport 80 -m limit --limit 5/sec -j ACCEPT", "tcp to port 80"),
        ("filter", "-A FORWARD -m limit --limit 5/sec -j ACCEPT\n-A FORWARD -j DROP", "TCP and UDP"),
        (
            "filter",
            "-A FORWARD -s 10.244.1.7/32 -p udp -m length --length 1000:65535 -j DROP",
            "udp from 10.244.1.7/32",
        ),
        (
            "filter",
            "-A FORWARD -p tcp -m multiport --dports 80,8000:8080 -m string --string x --algo bm -j DROP",
            "tcp to port 80; tcp to port 8000-8080",
        ),
        (
            "filter",
            "-A FORWARD -p tcp -m tcp --sport 5432 -m quota --quota 1000 -j ACCEPT",
            "tcp from port 5432",
        ),
        (
            "filter",
            "-A FORWARD -m connbytes --connbytes 1000: --connbytes-mode bytes --connbytes-dir both -j DROP",
            "TCP and UDP",
        ),
        (
            "mangle",
            "-A POSTROUTING -p udp -m statistic --mode random --probability 0.1 -j DSCP --set-dscp 0x0a",
            "udp",
        ),
        (
            "mangle",
            "-A PREROUTING -d 10.96.0.10/32 -m ttl --ttl-lt 5 -j DROP",
            "TCP and UDP to 10.96.0.10/32",
        ),
        ("filter", "-A FORWARD -p tcp -j NFQUEUE --queue-num 1", "tcp"),
        (
            "mangle",
            "-A PREROUTING -s 10.244.1.0/24 -j TEE --gateway 10.0.0.9",
            "TCP and UDP from 10.244.1.0/24",
        ),
        ("raw", "-A PREROUTING -p tcp -m tcp --dport 21 -j CT --helper ftp", "tcp to port 21"),
        (
            "filter",
            ":a -\n-A FORWARD -p tcp -j a\n-A a -m tcp --dport 80 -m u32 --u32 \"0=1\" -j DROP",
            "tcp to port 80",
        ),
        ("filter", ":a -\n-A FORWARD -m limit --limit 1/sec -j a\n-A a -j DROP", "TCP and UDP"),
        // Packets of proven flows do not come there.
        (
            "filter",
            "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FORWARD -j NFQUEUE",
            "",
        ),
        ("filter", "-A FORWARD -m conntrack --ctstate NEW -m recent --set -j ACCEPT", ""),
        ("filter", "-A FORWARD -m conntrack --ctstate INVALID -m limit --limit 1/sec -j DROP", ""),
        (
            "filter",
            "-A FORWARD -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m limit --limit 1/sec -j ACCEPT",
            "",
        ),
        ("filter", "-A FORWARD -d 10.244.0.0/16 -j ACCEPT\n-A FORWARD -j NFQUEUE", ""),
        ("filter", "-A FORWARD -d 192.0.2.1/32 -j NFQUEUE", ""),
        ("filter", "-A FORWARD -o docker0 -m limit --limit 1/sec -j ACCEPT", ""),
        ("filter", "-A FORWARD -p icmp -m limit --limit 1/sec -j ACCEPT", ""),
        ("filter", "-A INPUT -m limit --limit 1/sec -j DROP\n-A OUTPUT -j NFQUEUE", ""),
        // What all packets of a flow have in common, and what only logs.
        ("filter", "-A FORWARD -s 10.244.1.7/32 -j DROP", ""),
        ("filter", "-A FORWARD -m set --match-set bad dst -j DROP", ""),
        ("filter", "-A FORWARD -m limit --limit 1/sec -j LOG --log-prefix x", ""),
        ("filter", ":a -\n-A FORWARD -m limit --limit 1/sec -j a\n-A a -j LOG", ""),
        ("mangle", "-A FORWARD -j DSCP --set-dscp 0x0a", ""),
        ("raw", "-A PREROUTING -p udp -j CT --notrack", ""),
    ] {
        let saved = format!(
            "*{table}\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\n{rules}\nCOMMIT"
        );
        assert_eq!(of_iptables(&saved), expected, "{table}: {rules}");
    }
    let saved =
        "*filter\n:FORWARD ACCEPT\n-A FORWARD -d fd44:0:0:1::/64 -p udp -m hl --hl-gt 5 -j DROP\nCOMMIT";
    assert_eq!(of(&iptables::parse(saved, "ip6tables")), "udp to fd44:0:0:1::/64");
}

#[test]
fn a_rule_of_nft_looks_at_each_packet_if_its_answer_may_differ_among_those_of_a_flow() {
    // Of both families.
    const WEB: &str = "tcp to port 80; tcp to port 80";
    let compare = |operator: &str, left: &str, right: &str| {
        format!(r#"{{"match": {{"op": "{operator}", "left": {left}, "right": {right}}}}}, {{"drop": null}}"#)
    };
    let web = compare("==", r#"{"payload": {"protocol": "tcp", "field": "dport"}}"#, "80");
    let web = web.trim_end_matches(r#", {"drop": null}"#);
    for (statements, expected) in [
        (format!(r#"{web}, {{"limit": {{"rate": 5, "per": "second"}}}}, {{"accept": null}}"#), WEB),
        (format!(r#"{web}, {{"quota": {{"val": 5, "val_unit": "bytes"}}}}, {{"drop": null}}"#), WEB),
        (
            format!(
                r#"{web}, {{"set": {{"op": "update", "set": "@s", "stmt": [{{"limit": {{}}}}]}}}}, {{"drop": null}}"#
            ),
            WEB,
        ),
        (format!(r#"{web}, {{"queue": {{"num": 1}}}}"#), WEB),
        (format!(r#"{web}, {{"dup": {{"addr": "10.0.0.9"}}}}"#), WEB),
        (format!(r#"{web}, {{"ct helper": "ftp"}}"#), WEB),
        (compare(">", r#"{"meta": {"key": "length"}}"#, "1000"), "TCP and UDP; TCP and UDP"),
        (compare(">", r#"{"ct": {"key": "bytes"}}"#, "1000"), "TCP and UDP; TCP and UDP"),
        (
            compare("==", r#"{"payload": {"base": "th", "offset": 64, "len": 8}}"#, "7"),
            "TCP and UDP; TCP and UDP",
        ),
        (compare("==", r#"{"numgen": {"mode": "inc", "mod": 2}}"#, "0"), "TCP and UDP; TCP and UDP"),
        (compare("==", r#"{"payload": {"protocol": "ip", "field": "dscp"}}"#, "10"), "TCP and UDP"),
        (compare("==", r#"{"payload": {"base": "th", "offset": 16, "len": 16}}"#, "80"), ""),
        (compare("==", r#"{"payload": {"protocol": "tcp", "field": "flags"}}"#, r#""syn""#), ""),
        (compare("==", r#"{"ct": {"key": "state"}}"#, r#""new""#), ""),
        (format!(r#"{web}, {{"limit": {{"rate": 5}}}}, {{"log": null}}"#), ""),
        (format!(r#"{web}, {{"counter": {{}}}}, {{"drop": null}}"#), ""),
    ] {
        let listing = format!(
            r#"{{"nftables": [
                {{"chain": {{"family": "inet", "table": "t", "name": "f", "type": "filter", "hook": "forward", "prio": 0}}}},
                {{"rule": {{"table": "t", "chain": "f", "handle": 1, "expr": [{statements}]}}}}
            ]}}"#
        );
        assert_eq!(of_nft(&listing), expected, "{statements}");
    }
}
