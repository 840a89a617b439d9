//! Rules for the host's own packets hold for outer packets: BPF leaves these to the kernel while there are such rules.

use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::traffic::{Ping, ping, ping_with};
use flannel_tests::wait::throughout;
use flannel_tests::{Capture, Node, TestResult, eventually};

use crate::inspect;
use crate::overlay::{Overlay, lines_of};

/// What comes and goes is noticed in a second or two, and later on a busy machine: the tools that list rules are slow there.
const SOON: Duration = Duration::from_secs(20);
const WHILE: Duration = Duration::from_secs(1);

/// Far longer than an answer takes that comes.
const ANSWER: Duration = Duration::from_millis(300);

/// Something that concerns outer packets of the first node.
struct Rule {
    name: &'static str,
    add: &'static [&'static str],
    remove: &'static [&'static str],
    /// A part of the warning.
    said: &'static str,
    /// Where the programs count what they leave to the kernel.
    at: Hook,
    effect: Effect,
}

/// What a rule does with outer packets.
enum Effect {
    /// They do not arrive.
    Stops,
    /// They have this type of service.
    Writes(u8),
}

const RULES: [Rule; 9] = [
    Rule {
        name: "OUTPUT marks outer packets into another link",
        add: &[
            "ip route add default dev mesh0 table 51",
            "ip rule add fwmark 42 table 51",
            "iptables -w -t mangle -A OUTPUT -p udp --dport 8472 -j MARK --set-mark 42",
        ],
        remove: &[
            "iptables -w -t mangle -D OUTPUT -p udp --dport 8472 -j MARK --set-mark 42",
            "ip rule del fwmark 42 table 51",
            "ip route flush table 51",
        ],
        said: "the mark 0x2a off eth0",
        at: Hook::OverlayEgress,
        effect: Effect::Stops,
    },
    Rule {
        name: "a rule routes the port",
        add: &["ip route add default dev mesh0 table 52", "ip rule add ipproto udp dport 8472 table 52"],
        remove: &["ip rule del ipproto udp dport 8472 table 52", "ip route flush table 52"],
        said: "a rule takes outer packets off eth0",
        at: Hook::OverlayEgress,
        effect: Effect::Stops,
    },
    Rule {
        name: "an IPsec policy for sent packets",
        add: &[
            "ip xfrm policy add src 192.168.64.0/24 dst 192.168.64.2 proto udp dport 8472 dir out action block",
        ],
        remove: &["ip xfrm policy del src 192.168.64.0/24 dst 192.168.64.2 proto udp dport 8472 dir out"],
        said: "IPsec policies encrypt or block the outer packets",
        at: Hook::OverlayEgress,
        effect: Effect::Stops,
    },
    Rule {
        name: "an IPsec policy for received packets",
        add: &[
            "ip xfrm policy add src 192.168.64.2 dst 192.168.64.1 proto udp dport 8472 dir in action block",
        ],
        remove: &["ip xfrm policy del src 192.168.64.2 dst 192.168.64.1 proto udp dport 8472 dir in"],
        said: "IPsec policies apply to received outer packets over IPv4",
        at: Hook::UnderlayIngress,
        effect: Effect::Stops,
    },
    Rule {
        name: "iptables drops the port in OUTPUT",
        add: &["iptables-nft -w -A OUTPUT -p udp --dport 8472 -j DROP"],
        remove: &["iptables-nft -w -D OUTPUT -p udp --dport 8472 -j DROP"],
        said: "a firewall rule may stop outer packets (iptables-nft -t filter -A OUTPUT -p udp",
        at: Hook::OverlayEgress,
        effect: Effect::Stops,
    },
    Rule {
        name: "legacy iptables rejects what goes to the peer",
        add: &["iptables-legacy -w -t mangle -A POSTROUTING -d 192.168.64.2 -j DROP"],
        remove: &["iptables-legacy -w -t mangle -D POSTROUTING -d 192.168.64.2 -j DROP"],
        said: "a firewall rule may stop outer packets (iptables-legacy -t mangle -A POSTROUTING -d 192.168.64.2/32",
        at: Hook::OverlayEgress,
        effect: Effect::Stops,
    },
    Rule {
        name: "nft drops what leaves by the uplink, except for some ports",
        add: &[
            "nft add table inet strict",
            "nft add chain inet strict out { type filter hook output priority 0; policy drop; }",
            "nft add rule inet strict out oifname != \"eth0\" accept",
            "nft add rule inet strict out tcp dport 1-65535 accept",
            "nft add rule inet strict out icmp type echo-request accept",
        ],
        remove: &["nft delete table inet strict"],
        said: "a firewall rule may stop outer packets (nft table inet strict -P out DROP)",
        at: Hook::OverlayEgress,
        effect: Effect::Stops,
    },
    Rule {
        name: "nft marks outer packets into another link",
        add: &[
            "ip route add default dev mesh0 table 51",
            "ip rule add fwmark 0x2c/0xff table 51",
            "nft add table ip mesh",
            "nft add chain ip mesh out { type route hook output priority 0; }",
            "nft add rule ip mesh out udp dport 8472 meta mark set 0x12c",
        ],
        remove: &[
            "nft delete table ip mesh",
            "ip rule del fwmark 0x2c/0xff table 51",
            "ip route flush table 51",
        ],
        said: "the mark 0x12c off eth0",
        at: Hook::OverlayEgress,
        effect: Effect::Stops,
    },
    Rule {
        name: "iptables writes the type of service",
        add: &["iptables-nft -w -t mangle -A POSTROUTING -p udp --dport 8472 -j DSCP --set-dscp 10"],
        remove: &["iptables-nft -w -t mangle -D POSTROUTING -p udp --dport 8472 -j DSCP --set-dscp 10"],
        said: "a firewall rule may change outer packets (iptables-nft -t mangle -A POSTROUTING -p udp",
        at: Hook::OverlayEgress,
        effect: Effect::Writes(10 << 2),
    },
];

/// What looks alike and does not concern outer packets.
const OTHERS: [&str; 12] = [
    // No rule sets this mark on outer packets.
    "ip route add default dev mesh0 table 54",
    "ip rule add fwmark 0x77 table 54",
    "iptables-nft -w -t mangle -A OUTPUT -p tcp -j MARK --set-mark 0x77",
    "iptables-nft -w -t mangle -A OUTPUT -j MARK --set-mark 0x4000/0x4000",
    "iptables-nft -w -A OUTPUT -m mark --mark 0x8000/0x8000 -j DROP",
    "iptables-nft -w -A OUTPUT -p udp --dport 4789 -j DROP",
    "ip rule add fwmark 0x80000/0xff0000 table main",
    "ip rule add from 10.99.0.0/16 table 53",
    "ip route add local default dev lo table 100",
    "ip rule add fwmark 1 table 100",
    "ip xfrm policy add src 192.168.64.1 dst 192.168.99.2 dir out action block",
    "ip xfrm policy add src 192.168.64.1 dst 192.168.64.2 proto tcp dir out action block",
];

fn run(node: &Node, commands: &[&str]) -> Result<()> {
    commands.iter().try_for_each(|command| node.exec(command).map(drop))
}

fn obstructed(node: &Node, at: Hook) -> Result<u64> {
    inspect::packets(node, at, Outcome::Obstructed)
}

/// Waits until the programs of the first node carry both directions.
fn wait_carried(overlay: &Overlay) -> Result<()> {
    let (one, other) = overlay.two_pods();
    let node = &overlay.nodes()[0];
    let before = inspect::carried(node)?;
    eventually("BPF carries", SOON, || {
        ping(one, other.ip()).and(ping(other, one.ip()))?;
        let now = inspect::carried(node)?;
        ensure!(now.0 > before.0 && now.1 > before.1, "{before:?}, then {now:?}");
        Ok(())
    })
}

fn holds(overlay: &Overlay, rule: &Rule) -> Result<()> {
    let node = &overlay.nodes()[0];
    let (one, other) = overlay.two_pods();
    let log = || overlay.agents[0].log();
    let short = Ping { timeout: ANSWER, ..Ping::default() };
    run(node, rule.add)?;
    eventually("it is said", SOON, || {
        let warnings = lines_of(&log(), "WARN");
        ensure!(warnings.iter().filter(|line| line.contains(rule.said)).count() == 1, "{warnings:#?}");
        Ok(())
    })?;
    let before = obstructed(node, rule.at)?;
    eventually("the programs leave packets to the kernel", SOON, || {
        _ = ping_with(one, other.ip(), &short);
        let now = obstructed(node, rule.at)?;
        ensure!(now > before, "{before}, then {now}");
        Ok(())
    })?;
    let decides = match rule.effect {
        Effect::Stops => throughout("the rule decides", WHILE, || {
            ensure!(ping_with(one, other.ip(), &short).is_err(), "a ping came back");
            Ok(())
        }),
        Effect::Writes(service) => writes(overlay, service),
    };
    run(node, rule.remove)?;
    decides?;
    wait_carried(overlay)?;
    eventually("the end is said", SOON, || {
        let over =
            log().lines().filter(|line| line.contains("no longer so") && line.contains(rule.said)).count();
        ensure!(over == 1, "{}", log());
        Ok(())
    })
}

/// Checks that all outer packets of the first node have this type of service.
fn writes(overlay: &Overlay, service: u8) -> Result<()> {
    let (one, other) = overlay.two_pods();
    let capture = Capture::start(overlay.nodes()[0].netns(), "eth0")?;
    (0..20).try_for_each(|_| ping(one, other.ip()).map(drop))?;
    let capture = capture.stop()?;
    let outer = capture.frames().iter().filter(|frame| frame.outgoing && frame.bytes[36..38] == [0x21, 0x18]);
    let services: Vec<_> = outer.map(|frame| frame.bytes[15]).collect();
    ensure!(services.len() >= 20 && services.iter().all(|found| *found == service), "{services:?}");
    Ok(())
}

#[test]
fn what_the_host_demands_of_its_own_packets_holds_for_outer_packets() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    let node = &overlay.nodes()[0];
    run(
        node,
        &["ip link add mesh0 type veth peer name mesh1", "ip link set mesh0 up", "ip link set mesh1 up"],
    )?;
    wait_carried(&overlay)?;
    run(node, &OTHERS)?;
    for rule in &RULES {
        holds(&overlay, rule).map_err(|error| error.context(rule.name))?;
    }
    // What concerns other packets is no reason.
    let warnings = lines_of(&overlay.agents[0].log(), "WARN");
    let others = warnings.iter().filter(|line| RULES.iter().all(|rule| !line.contains(rule.said)));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&String>::new());
    Ok(())
}
