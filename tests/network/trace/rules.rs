//! What a trace says of rules of packet filters, beside what happens to packets that are sent.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use flannel_tests::traffic::{At, UdpAsker, ping};
use flannel_tests::wait::{patiently, scaled};
use flannel_tests::{Host, Node, Pod, TestResult, Topology, eventually};
use serde_json::Value;

use super::command::TraceReport;
use super::{TraceCommand, acquainted, proven};
use crate::inspect::DEVICE;
use crate::network::flow_cache::SOON;
use crate::overlay::Overlay;

/// The port that rules are about.
const PORT: u16 = 8080;
/// Longest time for a datagram to arrive.
const ARRIVES: Duration = Duration::from_millis(500);

/// Longest time until the agent acts on a rule for outer packets.
const OBEYS: Duration = Duration::from_secs(15);

/// Sends a datagram from a free port, and returns what a trace on this node says of it before, and whether it has arrived.
fn traced(node: &Node, from: &dyn Host, to: &Pod, port: u16) -> Result<(TraceReport, bool)> {
    // A process that was just started may still have the last one.
    let receiver = eventually("the port is free", SOON, || to.netns().udp_bind(to.ip(), port))?;
    let sender = UdpAsker::open(from, 0)?;
    let question = TraceCommand::new(from.ip(), to.ip()).udp(sender.address()?.port(), port);
    let report = question.ask(node)?;
    sender.socket().send_to(b"traced", SocketAddr::new(to.ip(), port))?;
    receiver.set_read_timeout(Some(scaled(ARRIVES)))?;
    let arrives =
        receiver.recv_from(&mut [0; 16]).is_ok_and(|(_, source)| Some(source) == sender.address().ok());
    Ok((report, arrives))
}

impl TraceReport {
    /// Returns the rules that it names: what each does, and what it depends on.
    fn rules(&self) -> Vec<(&str, &str, Vec<&str>)> {
        let rules = self.steps().iter().filter(|step| step["step"] == "rule");
        rules
            .map(|step| {
                let text = |field: &str| step[field].as_str().unwrap_or_default();
                let depends_on = step["depends_on"].as_array().map_or(&[][..], Vec::as_slice);
                (text("does"), text("rule"), depends_on.iter().filter_map(Value::as_str).collect())
            })
            .collect()
    }
}

/// Rules, as commands that add and remove them, and what a trace says of the one that stops the packet.
struct Case {
    add: String,
    remove: String,
    does: &'static str,
    rule: String,
}

impl Case {
    /// A rule of iptables: `FORWARD -j DROP`, of this table.
    fn iptables(table: &str, does: &'static str, rule: &str) -> Self {
        let (chain, rest) = rule.split_once(' ').unwrap();
        Self {
            add: format!("iptables -w -t {table} -I {chain} {rest}"),
            remove: format!("iptables -w -t {table} -D {chain} {rest}"),
            does,
            rule: format!("-t {table} -A {chain} "),
        }
    }

    /// A chain of iptables, to which a rule in front of all others at FORWARD leads.
    fn chain(jump: &str, rules: &[&str], does: &'static str, rule: &str) -> Self {
        let mut add = "iptables -w -N POLICY".to_owned();
        rules.iter().for_each(|rule| add += &format!(" && iptables -w -A POLICY {rule}"));
        Self {
            add: format!("{add} && iptables -w -I FORWARD {jump} -j POLICY"),
            remove: format!(
                "iptables -w -D FORWARD {jump} -j POLICY && iptables -w -F POLICY && iptables -w -X POLICY"
            ),
            does,
            rule: rule.to_owned(),
        }
    }

    /// A table of nft with a chain at FORWARD.
    fn nft(policy: &str, rules: &str, does: &'static str, rule: &str) -> Self {
        let chain = format!("type filter hook forward priority -5; policy {policy};\n{rules}");
        Self {
            add: format!("nft -f - <<'END'\ntable inet traced {{\n chain pods {{ {chain}\n }}\n}}\nEND"),
            remove: "nft delete table inet traced".to_owned(),
            does,
            rule: rule.to_owned(),
        }
    }

    fn run(&self, node: &Node, line: &str) -> Result<()> {
        node.netns().exec_with("sh -e", &format!("{line}\n")).map(drop).with_context(|| line.to_owned())
    }
}

#[test]
fn the_rule_that_stops_a_packet_is_named() -> TestResult {
    let overlay = acquainted()?;
    let (one, other) = overlay.two_pods();
    let (source, destination) = (one.ip(), other.ip());
    let cases = [
        Case::iptables("filter", "drops", &format!("FORWARD -d {destination} -p udp --dport {PORT} -j DROP")),
        Case::iptables("filter", "rejects", &format!("FORWARD -s {source} -p udp --dport {PORT} -j REJECT")),
        Case::iptables("raw", "drops", &format!("PREROUTING -i cni0 -p udp --dport {PORT} -j DROP")),
        Case::iptables("mangle", "drops", &format!("POSTROUTING -o {DEVICE} -p udp --dport {PORT} -j DROP")),
        // As agents for network policies write them.
        Case::chain(
            &format!("-s {source} -p udp"),
            &[
                "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
                "-s 10.99.0.0/16 -j ACCEPT",
                &format!("-p udp -m multiport ! --dports 53,{PORT} -j RETURN"),
                "-m comment --comment 'default deny' -j REJECT --reject-with icmp-port-unreachable",
            ],
            "rejects",
            "-A POLICY -m comment --comment \"default deny\" -j REJECT",
        ),
        Case::nft("accept", &format!("ip daddr {destination} udp dport {PORT} drop"), "drops", "drop"),
        Case::nft("accept", &format!("udp dport {{ 53, {PORT} }} reject"), "rejects", "reject"),
        Case::nft(
            "accept",
            &format!(
                "ct state vmap {{ established : accept, related : accept }}\nudp dport {PORT} counter drop"
            ),
            "drops",
            "drop",
        ),
        Case::nft(
            "drop",
            &format!("udp dport != {PORT} accept"),
            "drops",
            "nft table inet traced -P pods DROP",
        ),
    ];
    // On the sender's node, and on the receiver's.
    for (node, prefix) in [(&overlay.nodes()[0], "-i cni0"), (&overlay.nodes()[1], "-i flannel.1")] {
        for case in &cases {
            let case = Case {
                add: case.add.replace("-i cni0", prefix),
                remove: case.remove.replace("-i cni0", prefix),
                rule: case.rule.clone(),
                ..*case
            };
            if prefix != "-i cni0" && case.add.contains(&format!("-o {DEVICE}")) {
                continue;
            }
            ensure_stops(node, one, other, &case)
                .with_context(|| format!("{} on {}", case.add, node.name()))?;
        }
    }
    Ok(())
}

/// Fails unless trace and packets agree without the rule, with it, and for another port.
fn ensure_stops(node: &Node, one: &Pod, other: &Pod, case: &Case) -> Result<()> {
    let passes = |port| {
        let (report, arrives) = traced(node, one, other, port)?;
        let is_open = report.0["end"]["end"] != "lost" && report.0["certain"] == true;
        ensure!(arrives && is_open && report.rules().is_empty(), "arrives: {arrives}: {report:#?}");
        let rules = report.step("rules");
        ensure!(rules["established"] == false && rules["outer"] == false, "{rules}");
        Ok(())
    };
    passes(PORT).context("without the rule")?;
    case.run(node, &case.add)?;
    let (report, arrives) = traced(node, one, other, PORT)?;
    passes(PORT + 1).context("another port")?;
    case.run(node, &case.remove)?;
    ensure!(!arrives && report.0["end"]["end"] == "lost", "arrives: {arrives}: {report:#?}");
    let rules = report.rules();
    let [(does, rule, depends_on)] = &rules[..] else { bail!("not one rule: {report:#?}") };
    ensure!(*does == case.does && rule.contains(&case.rule) && depends_on.is_empty(), "{rules:?}");
    let reason = report.0["end"]["reason"].as_str().context("no reason")?;
    ensure!(reason.contains(rule) && reason.contains(case.does), "{reason}");
    ensure!(report.0["certain"] == true, "{report:#?}");
    Ok(())
}

#[test]
fn a_rule_that_cannot_be_judged_is_possible_and_never_sure() -> TestResult {
    let overlay = acquainted()?;
    let node = &overlay.nodes()[0];
    for (case, looks_at) in [
        (
            Case::iptables(
                "filter",
                "drops",
                "FORWARD -p udp --dport 8080 -m statistic --mode random --probability 0.5 -j DROP",
            ),
            "-m statistic",
        ),
        (Case::nft("accept", "udp dport 8080 numgen random mod 2 0 drop", "drops", "drop"), "numgen"),
        (
            Case::nft(
                "drop",
                "udp dport 8080 numgen random mod 2 0 accept\nudp dport != 8080 accept",
                "drops",
                "-P pods DROP",
            ),
            "numgen",
        ),
    ] {
        case.run(node, &case.add)?;
        ensure_unsure(&overlay, &case, looks_at).with_context(|| case.add.clone())?;
        case.run(node, &case.remove)?;
    }
    Ok(())
}

/// Fails unless some packets arrive and some do not, and the trace says of each that it cannot tell.
fn ensure_unsure(overlay: &Overlay, case: &Case, looks_at: &str) -> Result<()> {
    let (node, (one, other)) = (&overlay.nodes()[0], overlay.two_pods());
    let (mut arrived, mut lost) = (0, 0);
    // That all have the same fate among so many has a probability of 2^-39.
    while arrived == 0 || lost == 0 {
        ensure!(arrived + lost < 40, "{arrived} have arrived, {lost} were lost");
        let (report, arrives) = traced(node, one, other, PORT)?;
        *if arrives { &mut arrived } else { &mut lost } += 1;
        let rules = report.rules();
        let [(does, rule, depends_on)] = &rules[..] else { bail!("not one rule: {report:#?}") };
        ensure!(*does == case.does && rule.contains(&case.rule), "{rules:?}");
        ensure!(depends_on.len() == 1 && depends_on[0].starts_with(looks_at), "{rules:?}");
        ensure!(report.0["certain"] == false && report.0["end"]["end"] == "leaves", "{report:#?}");
    }
    let text = TraceCommand::new(one.ip(), other.ip()).udp(1, PORT).text(node)?;
    ensure!(text.contains("cannot tell whether this drops it") && text.contains(looks_at), "{text}");
    ensure!(text.trim_end().ends_with("unless a rule that cannot be judged changes that"), "{text}");
    Ok(())
}

#[test]
fn later_packets_of_a_connection_are_told_from_its_first() -> TestResult {
    let overlay = Overlay::start(Topology::segment(2), &["--flow-cache=false"; 2], 1)?;
    let (one, other) = overlay.two_pods();
    eventually("the pods reach each other", SOON, || ping(one, other.ip()))?;
    let (node, nft) = (&overlay.nodes()[0], |rules: &str| Case::nft("accept", rules, "rejects", "reject"));
    // The kernel tracks connections as long as a rule asks for them.
    let tracking = Case::iptables("filter", "drops", "FORWARD -m conntrack --ctstate INVALID -j DROP");
    tracking.run(node, &tracking.add)?;
    let (mut session, client, server) = proven(one, other)?;
    let question = TraceCommand::new(one.ip(), other.ip()).udp(client, server);
    let answered = question.ask(node)?;
    assert_eq!(answered.step("connection")["answered"], true);
    assert_eq!(answered.step("rules")["established"], true);
    let case = nft("ct state new udp dport != 53 reject");
    case.run(node, &case.add)?;
    session.echo(100)?;
    assert!(question.ask(node)?.rules().is_empty());
    let (report, arrives) = traced(node, one, other, PORT)?;
    assert!(!arrives && report.0["end"]["end"] == "lost", "arrives: {arrives}: {report:#?}");
    case.run(node, &case.remove)?;
    let case = nft("ct state established udp dport != 53 reject");
    case.run(node, &case.add)?;
    assert!(session.echo(100).is_err(), "the rule lets the connection pass");
    let report = question.ask(node)?;
    assert_eq!((report.rules().len(), &report.0["end"]["end"]), (1, &"lost".into()), "{report:#?}");
    let (report, arrives) = traced(node, one, other, PORT)?;
    assert!(arrives && report.0["end"]["end"] == "leaves", "arrives: {arrives}: {report:#?}");
    Ok(())
}

#[test]
fn rules_for_the_tunnel_stop_what_the_kernel_wraps_and_not_what_bpf_does() -> TestResult {
    let overlay = Overlay::mixed()?;
    let (bpf, kernel) = overlay.two_pods();
    ping(bpf, kernel.ip())?;
    let [bpf_node, kernel_node] = [&overlay.nodes()[0], &overlay.nodes()[1]];
    let rule = |rule: &str| Case::iptables("filter", "drops", &format!("{rule} -p udp --dport 8472 -j DROP"));
    let lost = |(report, arrives): (TraceReport, bool), hook: &str| {
        ensure!(!arrives && report.0["end"]["end"] == "lost", "{hook}: arrives: {arrives}: {report:#?}");
        let rules: Vec<_> = report.steps().iter().filter(|step| step["step"] == "rule").collect();
        let [rule] = rules[..] else { bail!("not one rule: {report:#?}") };
        ensure!(
            rule["outer"] == true && rule["hook"] == hook && rule["depends_on"] == Value::Array(vec![]),
            "{rule}"
        );
        Ok(())
    };
    let passed = |(report, arrives): (TraceReport, bool), end: &str| {
        ensure!(
            arrives && report.rules().is_empty() && report.end().0 == end,
            "arrives: {arrives}: {report:#?}"
        );
        Ok(())
    };
    let input = rule("INPUT");
    for node in [bpf_node, kernel_node] {
        input.run(node, &input.add)?;
    }
    lost(traced(kernel_node, bpf, kernel, PORT)?, "input")?;
    passed(traced(kernel_node, kernel, bpf, PORT)?, "leaves")?;
    // BPF takes the packet before the rule sees it.
    passed(traced(bpf_node, kernel, bpf, PORT)?, "delivered")?;
    for node in [bpf_node, kernel_node] {
        input.run(node, &input.remove)?;
    }
    let output = rule("OUTPUT");
    for node in [bpf_node, kernel_node] {
        output.run(node, &output.add)?;
    }
    lost(traced(kernel_node, kernel, bpf, PORT)?, "output")?;
    // The agent leaves packets to the kernel once it has seen the rule.
    patiently("the rule stops what BPF had wrapped", OBEYS, || {
        lost(traced(bpf_node, bpf, kernel, PORT)?, "output")
    })?;
    Ok(())
}

#[test]
fn rules_see_packets_within_a_bridge_if_the_kernel_is_told_to() -> TestResult {
    let overlay = Overlay::start(Topology::segment(2), &["--dataplane=bpf"; 2], 2)?;
    let (node, [one, other]) = (&overlay.nodes()[0], [&overlay.pods[0][0], &overlay.pods[0][1]]);
    // The host itself knows where the pod is.
    ping(&At { netns: node.netns(), ip: overlay.base(0)?.into() }, other.ip())?;
    let case = Case::iptables("filter", "drops", &format!("FORWARD -d {} -p udp -j DROP", other.ip()));
    case.run(node, &case.add)?;
    for (value, is_seen) in [("0", false), ("1", true)] {
        node.netns().set(&[("net.bridge.bridge-nf-call-iptables", value)])?;
        let (report, arrives) = traced(node, one, other, PORT)?;
        assert_eq!((arrives, report.rules().len()), (!is_seen, usize::from(is_seen)), "{report:#?}");
        assert_eq!(report.0["end"]["end"], if is_seen { "lost" } else { "delivered" });
    }
    Ok(())
}

#[test]
fn rules_that_cannot_be_listed_are_not_taken_for_none() -> TestResult {
    let overlay = acquainted()?;
    let node = &overlay.nodes()[0];
    let mut agent = node.netns().command(flannel_tests::agent::agent_binary()?);
    agent.env("PATH", node.dir());
    let (one, other) = overlay.two_pods();
    let report = TraceCommand::new(one.ip(), other.ip()).ask_of(&mut agent, node)?;
    let text = report.step("note")["text"].as_str().unwrap();
    assert!(text.contains("firewall rules are not known"), "{text}");
    assert_eq!((&report.0["certain"], report.end().0), (&false.into(), "leaves"));
    Ok(())
}
