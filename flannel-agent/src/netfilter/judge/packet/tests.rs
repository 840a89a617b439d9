use super::*;
use crate::netfilter::{iptables, nft};

/// The first packet of a connection of a pod to this destination, in TCP.
fn from_pod(destination: &str) -> Packet {
    let destination: SocketAddr = destination.parse().unwrap();
    Packet {
        source: "10.5.1.2".parse().ok(),
        destination: destination.ip(),
        protocol: TCP,
        source_port: Some(40000),
        port: Some(destination.port()),
        established: false,
        local: false,
        own: false,
    }
}

const WAYS: Ways<'_> = Ways { from: Some("cni0"), to: Some("flannel.1") };

/// What the chains at FORWARD do, in short: `stops` or `passes`, and each rule with what it depends on.
fn forwarded(tables: Vec<Table>, packet: Packet) -> String {
    let mut traveller = Traveller::new(tables.into(), packet);
    let passed = traveller.pass(Hook::Forward, Part::Before, WAYS);
    let met = passed.met.iter().map(|met| {
        let rule = met.rule.trim_start_matches("iptables -t filter ");
        let doubts =
            if met.doubts.is_empty() { String::new() } else { format!(" ({})", met.doubts.join(", ")) };
        format!("; {}{doubts}: {rule}", met.deed.name())
    });
    format!("{}{}", if passed.stopped { "stops" } else { "passes" }, met.collect::<String>())
}

/// The table with these rules. Its policy is to accept, if they name no other.
fn filter(rules: &str) -> Vec<Table> {
    let policy = if rules.contains(":FORWARD") { "" } else { ":FORWARD ACCEPT [0:0]\n" };
    iptables::parse(&format!("*filter\n{policy}{rules}COMMIT\n"), "iptables")
}

#[test]
fn a_rule_that_surely_stops_the_packet_is_told_from_one_that_may() {
    let to = || from_pod("10.5.2.2:80");
    for (rules, expected) in [
        (":FORWARD ACCEPT [0:0]\n", "passes"),
        (":FORWARD DROP [0:0]\n", "stops; drops: -P FORWARD DROP"),
        (":FORWARD DROP [0:0]\n-A FORWARD -i cni0 -o flannel.1 -j ACCEPT\n", "passes"),
        (
            "-A FORWARD -d 10.5.2.2/32 -p tcp -m tcp --dport 80 -j REJECT\n",
            "stops; rejects: -A FORWARD -d 10.5.2.2/32 -p tcp -m tcp --dport 80 -j REJECT",
        ),
        ("-A FORWARD -d 10.5.2.2/32 -p tcp -m tcp --dport 81 -j REJECT\n", "passes"),
        ("-A FORWARD -d 10.5.2.2/32 -p udp -m udp --dport 80 -j REJECT\n", "passes"),
        ("-A FORWARD -s 10.5.1.3/32 -j DROP\n", "passes"),
        ("-A FORWARD -i eth0 -j DROP\n", "passes"),
        ("-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j DROP\n", "passes"),
        (
            "-A FORWARD -m conntrack --ctstate NEW -j DROP\n",
            "stops; drops: -A FORWARD -m conntrack --ctstate NEW -j DROP",
        ),
        (
            "-A FORWARD -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP\n",
            "stops; drops: -A FORWARD -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP",
        ),
        ("-A FORWARD -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK RST -j DROP\n", "passes"),
        (
            "-A FORWARD -m set --match-set bad src -j DROP\n",
            "passes; drops (-m set): -A FORWARD -m set --match-set bad src -j DROP",
        ),
        (
            "-A FORWARD -m statistic --mode random --probability 0.5 -j DROP\n",
            "passes; drops (-m statistic): -A FORWARD -m statistic --mode random --probability 0.5 -j DROP",
        ),
        // One of both stops it.
        (
            "-A FORWARD -m bpf --bytecode x -j DROP\n-A FORWARD -j REJECT\n",
            "stops; drops (-m bpf): -A FORWARD -m bpf --bytecode x -j DROP; rejects (-m bpf): -A FORWARD -j REJECT",
        ),
        // It may have been accepted before.
        (
            ":FORWARD DROP [0:0]\n-A FORWARD -m string --string x -j ACCEPT\n",
            "passes; drops (-m string): -P FORWARD DROP",
        ),
        // A mark that a rule before has set, or may have set.
        (
            "-A FORWARD -j MARK --set-xmark 0x1/0x1\n-A FORWARD -m mark --mark 0x1/0x1 -j DROP\n",
            "stops; drops: -A FORWARD -m mark --mark 0x1/0x1 -j DROP",
        ),
        (
            "-A FORWARD -m set --match-set bad src -j MARK --set-xmark 0x1/0x1\n\
             -A FORWARD -m mark --mark 0x1/0x1 -j DROP\n",
            "passes; drops (the mark): -A FORWARD -m mark --mark 0x1/0x1 -j DROP",
        ),
        (
            "-A FORWARD -j CONNMARK --restore-mark\n-A FORWARD -m mark --mark 0x1/0x1 -j DROP\n",
            "passes; drops (the mark): -A FORWARD -m mark --mark 0x1/0x1 -j DROP",
        ),
        ("-A FORWARD -j NFQUEUE --queue-num 1\n", "passes; shows: -A FORWARD -j NFQUEUE --queue-num 1"),
        ("-A FORWARD -j TTL --ttl-dec 1\n", "passes; changes: -A FORWARD -j TTL --ttl-dec 1"),
        (
            "-A FORWARD -p tcp -j TPROXY --on-port 9\n",
            "passes; unknown: -A FORWARD -p tcp -j TPROXY --on-port 9",
        ),
        // The connection tracker may be kept off it.
        (
            "-A FORWARD -m set --match-set bad src -j NOTRACK\n-A FORWARD -m conntrack --ctstate NEW -j DROP\n",
            "passes; drops (what the connection tracker knows): -A FORWARD -m conntrack --ctstate NEW -j DROP",
        ),
    ] {
        assert_eq!(forwarded(filter(rules), to()), expected, "{rules}");
    }
}

#[test]
fn a_ping_is_told_from_other_messages() {
    let ping = Packet { protocol: 1, port: None, source_port: None, ..from_pod("10.5.2.2:0") };
    for (rule, is_stopped) in [
        ("-p icmp -m icmp --icmp-type 8 -j DROP", true),
        ("-p icmp -m icmp --icmp-type 8/0 -j DROP", true),
        ("-p icmp -m icmp --icmp-type any -j DROP", true),
        ("-p icmp -j DROP", true),
        ("-p icmp -m icmp --icmp-type 0 -j DROP", false),
        ("-p tcp -j DROP", false),
        ("-p tcp -m tcp --dport 0 -j DROP", false),
    ] {
        let found = forwarded(filter(&format!("-A FORWARD {rule}\n")), ping.clone());
        assert_eq!(found.starts_with("stops"), is_stopped, "{found}");
        assert!(!found.contains('('), "{found}");
    }
}

#[test]
fn what_may_leave_a_chain_leaves_no_other() {
    let policy = "\
        :FORWARD ACCEPT [0:0]\n:POD - [0:0]\n:INSIDE - [0:0]\n\
        -A FORWARD -j POD\n-A FORWARD -d 10.5.2.2/32 -j REJECT\n\
        -A POD -m set --match-set good src -j RETURN\n-A POD -p tcp -m tcp --dport 80 -j DROP\n";
    assert_eq!(
        forwarded(filter(policy), from_pod("10.5.2.2:80")),
        "stops; drops (-m set): -A POD -p tcp -m tcp --dport 80 -j DROP; rejects (-m set): -A \
         FORWARD -d 10.5.2.2/32 -j REJECT"
    );
    assert_eq!(
        forwarded(filter(policy), from_pod("10.5.2.2:81")),
        "stops; rejects: -A FORWARD -d 10.5.2.2/32 -j REJECT"
    );
    assert_eq!(
        forwarded(filter(policy), from_pod("10.5.2.3:80")),
        "passes; drops (-m set): -A POD -p tcp -m tcp --dport 80 -j DROP"
    );
}

#[test]
fn a_later_packet_is_told_from_the_first() {
    let rules = "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A FORWARD -j DROP\n";
    let first = from_pod("10.5.2.2:80");
    assert!(forwarded(filter(rules), first.clone()).starts_with("stops"));
    assert_eq!(forwarded(filter(rules), Packet { established: true, ..first.clone() }), "passes");
    let syn = "-A FORWARD -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP\n";
    assert_eq!(forwarded(filter(syn), Packet { established: true, ..first }), "passes");
}

/// Where the rules may lead the first packet of a pod's connection, and whether they surely do.
fn destinations(tables: Vec<Table>, to: &str) -> (Vec<String>, bool) {
    let mut traveller = Traveller::new(tables.into(), from_pod(to));
    let ways = Ways { to: None, ..WAYS };
    let found = traveller.translations(Hook::Prerouting, Side::Destination, ways);
    let shown = |choice: &Translation| match choice.to {
        Some(Target { address: Some(address), port: Some(port) }) => {
            SocketAddr::new(address, port).to_string()
        }
        Some(Target { address: Some(address), port: None }) => address.to_string(),
        Some(Target { address: None, port }) => format!("here:{}", port.unwrap_or_default()),
        None => "?".to_owned(),
    };
    (found.choices.iter().map(shown).collect(), found.is_sure)
}

fn nat(rules: &str) -> Vec<Table> {
    iptables::parse(&format!("*nat\n:PREROUTING ACCEPT [0:0]\n{rules}COMMIT\n"), "iptables")
}

#[test]
fn backends_of_a_service_are_found_through_all_chains() {
    const RULES: &str = "\
        :KUBE-SERVICES - [0:0]\n:KUBE-SVC-A - [0:0]\n:KUBE-SEP-1 - [0:0]\n:KUBE-SEP-2 - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n\
        -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
        -A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-A\n\
        -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
        -A KUBE-SVC-A ! -s 10.5.0.0/16 -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ\n\
        -A KUBE-SVC-A -m statistic --mode random --probability 0.5 -j KUBE-SEP-1\n\
        -A KUBE-SVC-A -j KUBE-SEP-2\n\
        -A KUBE-SEP-1 -s 10.5.2.2/32 -j KUBE-MARK-MASQ\n\
        -A KUBE-SEP-1 -p tcp -m tcp -j DNAT --to-destination 10.5.2.2:8080\n\
        -A KUBE-SEP-2 -p tcp -m tcp -j DNAT --to-destination 10.5.3.2:8080\n";
    let both = ["10.5.2.2:8080", "10.5.3.2:8080"].map(str::to_owned).to_vec();
    assert_eq!(destinations(nat(RULES), "10.96.0.10:80"), (both, true));
    assert_eq!(destinations(nat(RULES), "10.96.0.10:81"), (vec![], false));
    let one = RULES.replace(" -m statistic --mode random --probability 0.5", "");
    assert_eq!(destinations(nat(&one), "10.96.0.10:80"), (vec!["10.5.2.2:8080".to_owned()], true));
    let found = Traveller::new(nat(&one).into(), from_pod("10.96.0.10:80")).translations(
        Hook::Prerouting,
        Side::Destination,
        WAYS,
    );
    let rules: Vec<_> =
        found.choices[0].rules.iter().map(|rule| rule.split(" -j ").nth(1).unwrap()).collect();
    assert_eq!(
        rules,
        ["KUBE-SERVICES", "KUBE-SVC-A", "KUBE-SEP-1", "DNAT --to-destination 10.5.2.2:8080"],
        "the rules on the way"
    );
    let raw = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j NOTRACK\nCOMMIT\n";
    let tables = [iptables::parse(raw, "iptables"), nat(RULES)].concat();
    let mut traveller = Traveller::new(tables.into(), from_pod("10.96.0.10:80"));
    traveller.pass(Hook::Prerouting, Part::Before, WAYS);
    let found = traveller.translations(Hook::Prerouting, Side::Destination, WAYS);
    assert_eq!(found, Translated::default(), "the connection tracker is kept off");
}

#[test]
fn backends_of_nftables_are_found_through_maps_and_numbers_chosen_at_random() {
    let listing = serde_json::from_str(include_str!("../rule_sets/services.json")).unwrap();
    let names = nft::tables(&listing, true);
    let tables: Vec<_> = names.iter().map(|(family, name)| nft::parse(&listing, family, name)).collect();
    for (service, expected, sure) in [
        ("10.96.0.10:80", &["10.5.2.2:8080", "10.5.3.2:8080"][..], true),
        ("10.96.0.10:81", &[], false),
        ("10.96.0.11:80", &["10.5.2.2:80", "10.5.3.2:81"], true),
        ("10.96.0.12:80", &["10.5.2.2", "10.5.3.2"], true),
        ("10.96.0.13:9", &["10.5.2.2"], true),
        ("10.96.0.14:9", &["?"], true),
        // It is not the host's own: no process of a group has sent it.
        ("10.96.0.15:9", &[], false),
        ("10.96.0.16:80", &["here:8080"], true),
    ] {
        let expected: Vec<_> = expected.iter().map(|end| (*end).to_owned()).collect();
        assert_eq!(destinations(tables.clone(), service), (expected, sure), "{service}");
    }
}

#[test]
fn a_mark_decides_about_the_source() {
    let listing = serde_json::from_str(include_str!("../rule_sets/services.json")).unwrap();
    let tables = vec![nft::parse(&listing, "ip", "kube-proxy")];
    let becomes = |source: &str| {
        let packet = Packet { source: source.parse().ok(), ..from_pod("10.96.0.10:80") };
        let mut traveller = Traveller::new(tables.clone().into(), packet);
        traveller.translations(Hook::Prerouting, Side::Destination, WAYS);
        traveller.translate(Side::Destination, "10.5.2.2:8080".parse().unwrap());
        let found = traveller.translations(Hook::Postrouting, Side::Source, WAYS);
        (found.choices.iter().map(|choice| choice.to).collect::<Vec<_>>(), found.is_sure)
    };
    assert_eq!(becomes("10.5.1.2"), (vec![], false));
    assert_eq!(becomes("192.168.64.7"), (vec![Some(Target { address: None, port: None })], true));
}
