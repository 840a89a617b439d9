//! Changed and deleted rules are repaired, and foreign rules are kept.

use anyhow::{Context as _, Result, ensure};
use flannel_agent::dataplane::bpf::clock;
use flannel_common::flow::{Flow, PROOF_NS};
use flannel_tests::traffic::ping;
use flannel_tests::{Node, TestResult, eventually};

use super::{Bed, FOREIGN, IPTABLES, SOON, rules, wait_for_rules};
use crate::inspect;
use crate::overlay::Streams;

/// What firewalld's reload does to the rules of others with `FirewallBackend=iptables`: it flushes every table, removes all
/// chains that are not built in, and drops what is forwarded until its own rules are written.
const RELOAD: &str = "*raw\nCOMMIT\n*mangle\nCOMMIT\n*nat\nCOMMIT\n*filter\n:FORWARD DROP [0:0]\nCOMMIT\n";

fn bed() -> Result<(Bed, String)> {
    let mut bed = Bed::new(1, IPTABLES)?;
    bed.node(0).netns().exec_with("iptables-restore", FOREIGN)?;
    bed.start(&["--ip-masq"])?;
    let whole = rules(bed.node(0))?;
    Ok((bed, whole))
}

#[test]
fn deleted_rules_come_back() -> TestResult {
    let (bed, whole) = bed()?;
    for damage in [
        "iptables -t nat -D FLANNEL-POSTRTG 1",
        "iptables -t nat -D FLANNEL-POSTRTG 4",
        "iptables -t nat -D FLANNEL-POSTRTG 6",
        "iptables -t nat -D POSTROUTING 2",
        "iptables -t nat -F FLANNEL-POSTRTG",
        "iptables -D FLANNEL-FWD 1",
        "iptables -D FORWARD 2",
    ] {
        bed.node(0).exec(damage)?;
        wait_for_rules(bed.node(0), &whole).context(damage)?;
    }
    bed.node(0).netns().exec_with(
        "iptables-restore --noflush",
        "*filter\n-D FORWARD 2\n-F FLANNEL-FWD\n-X FLANNEL-FWD\nCOMMIT\n",
    )?;
    wait_for_rules(bed.node(0), &whole).context("without the chain")?;
    Ok(())
}

#[test]
fn foreign_rules_keep_their_places() -> TestResult {
    let (bed, _) = bed()?;
    let node = bed.node(0);
    for line in [
        "iptables -t nat -I FLANNEL-POSTRTG 1 -s 10.5.1.9/32 -j RETURN",
        "iptables -t nat -I FLANNEL-POSTRTG 4 -s 10.5.1.8/32 -j RETURN",
        "iptables -t nat -I POSTROUTING 1 -s 10.5.1.7/32 -j RETURN",
        "iptables -t nat -A POSTROUTING -s 10.5.1.6/32 -j RETURN",
    ] {
        node.exec(line)?;
    }
    let with_foreign = rules(node)?;
    for damage in ["iptables -t nat -D FLANNEL-POSTRTG 2", "iptables -t nat -D FLANNEL-POSTRTG 5"] {
        node.exec(damage)?;
        wait_for_rules(node, &with_foreign).context(damage)?;
    }
    Ok(())
}

/// Returns the packet counters of the rules of FLANNEL-FWD.
fn counters(node: &Node) -> Result<Vec<u64>> {
    let listed = node.exec("iptables -v -S FLANNEL-FWD")?;
    let packets = |line: &str| line.split(" -c ").nth(1)?.split(' ').next()?.parse().ok();
    Ok(listed.lines().filter_map(packets).collect())
}

#[test]
fn a_repair_keeps_the_counters_of_the_other_rules() -> TestResult {
    let mut bed = Bed::started(2, IPTABLES, &["--ip-masq"])?;
    bed.add_pods()?;
    ping(&bed.pods[0], bed.pods[1].ip())?;
    let before = counters(bed.node(0))?;
    assert!(matches!(&before[..], [from, _] if *from > 0), "{before:?}");
    bed.node(0).exec("iptables -D FLANNEL-FWD 2")?;
    let after = eventually("the rule is back", SOON, || {
        let now = counters(bed.node(0))?;
        ensure!(now.len() == 2, "{now:?}");
        Ok(now)
    })?;
    assert!(after[0] >= before[0], "{before:?} then {after:?}");
    bed.restart(&[])?;
    assert!(counters(bed.node(0))?[0] >= before[0], "a restart reset {before:?}");
    Ok(())
}

#[test]
fn a_flush_of_all_rules_interrupts_no_stream_and_is_repaired() -> TestResult {
    let mut bed = Bed::started(2, IPTABLES, &["--ip-masq", "--dataplane=bpf"])?;
    bed.add_pods()?;
    let (node, [one, other]) = (bed.node(0), &bed.pods[..]) else { panic!("not two pods") };
    inspect::wait_plugged(node, one)?;
    let streams = Streams::between(one, other)?;
    eventually("the streams skip the host stack, and will do so for a while", 3 * SOON, || {
        let (sent, delivered) = inspect::shortcut(node)?;
        ensure!(sent > 0 && delivered > 0, "{sent} sent, {delivered} delivered");
        let now = clock::now(&inspect::pins(node)?)?;
        for (key, Flow { egress, ingress, .. }) in inspect::flows(node)? {
            let age = now.saturating_sub(egress.left.max(ingress.left));
            ensure!(age < PROOF_NS / 10, "{key:?}: proven {age} ns ago");
        }
        Ok(())
    })?;
    let flannels = || {
        let rules = rules(node)?;
        Ok::<_, anyhow::Error>(
            rules.lines().filter(|line| line.contains("FLANNEL")).collect::<Vec<_>>().join("\n"),
        )
    };
    let whole = flannels()?;
    node.netns().exec_with("iptables-restore", RELOAD)?;
    eventually("the rules are back", SOON, || {
        let now = flannels()?;
        ensure!(now == whole, "{now}\ninstead of\n{whole}");
        Ok(())
    })?;
    ping(one, other.ip())?;
    streams.ensure_whole()?;
    Ok(())
}
