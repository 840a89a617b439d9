//! The rules and their order.

use anyhow::{Result, ensure};
use flannel_tests::TestResult;
use flannel_tests::firewall::firewall as flanneld_writes;
use flannel_tests::wait::throughout;

use super::{Bed, CLUSTER, FOREIGN, IPTABLES, LOOKS, rules, wait_for_rules};

/// Starts an agent on a node with foreign rules. Returns the rules that such a node has with flanneld.
fn beside_flanneld(flags: &[&str]) -> Result<(Bed, String)> {
    let mut bed = Bed::new(2, IPTABLES)?;
    bed.node(0).netns().exec_with("iptables-restore", FOREIGN)?;
    flanneld_writes(bed.node(1), "10.5.1.0/24", CLUSTER)?;
    bed.node(1).netns().exec_with("iptables-restore --noflush", &FOREIGN.replace("-A", "-I"))?;
    let expected = rules(bed.node(1))?;
    bed.start(flags)?;
    Ok((bed, expected))
}

#[test]
fn rules_and_their_order_are_those_of_flanneld() -> TestResult {
    let (bed, expected) = beside_flanneld(&["--ip-masq"])?;
    assert_eq!(rules(bed.node(0))?, expected);
    assert!(bed.node(0).subnet_env()?.ip_masq);
    Ok(())
}

#[test]
fn flags_select_the_rules() -> TestResult {
    let (mut bed, expected) = beside_flanneld(&["--ip-masq"])?;
    let without = |words: &[&str]| -> String {
        let lines = expected.lines().filter(|line| !words.iter().any(|word| line.contains(word)));
        lines.map(|line| format!("{line}\n")).collect()
    };
    for (flag, expected) in [
        ("--ip-masq-fully-random-disable", expected.replace(" --random-fully", "")),
        ("--ip-masq-fully-random-disable=false", expected.clone()),
        ("--iptables-forward-rules=false", without(&["FLANNEL-FWD", "flanneld forward"])),
        ("--ip-masq=false", without(&["FLANNEL", "flanneld"])),
    ] {
        bed.restart(&[flag])?;
        assert_eq!(rules(bed.node(0))?, expected, "{flag}");
    }
    assert!(!bed.node(0).subnet_env()?.ip_masq);
    Ok(())
}

#[test]
fn existing_rules_of_flanneld_are_not_rewritten() -> TestResult {
    let mut bed = Bed::new(1, IPTABLES)?;
    flanneld_writes(bed.node(0), "10.5.1.0/24", CLUSTER)?;
    // With the handle of each rule, which changes when a rule is rewritten.
    let numbered = |bed: &Bed| bed.node(0).exec("nft -a -s list ruleset");
    let before = numbered(&bed)?;
    bed.start(&["--ip-masq"])?;
    throughout("no rule is rewritten", LOOKS, || {
        let now = numbered(&bed)?;
        ensure!(now == before, "{now}\ninstead of\n{before}");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn the_rules_follow_the_subnet() -> TestResult {
    let mut bed = Bed::started(1, IPTABLES, &["--ip-masq"])?;
    let old = rules(bed.node(0))?;
    bed.agents[0].term()?;
    std::fs::remove_file(bed.node(0).subnet_file())?;
    bed.store.delete("10.5.1.0-24")?;
    bed.store.put("10.5.9.0-24", &format!(r#"{{"PublicIP":"{}"}}"#, bed.node(0).ip()))?;
    bed.agents[0].restart()?;
    wait_for_rules(bed.node(0), &old.replace("10.5.1.0/24", "10.5.9.0/24"))?;
    Ok(())
}

#[test]
fn the_rules_follow_a_subnet_that_changes_while_the_agent_runs() -> TestResult {
    let bed = Bed::started(1, IPTABLES, &["--ip-masq"])?;
    let old = rules(bed.node(0))?;
    // Another node has been given the subnet.
    bed.store.put("10.5.1.0-24", r#"{"PublicIP":"192.168.64.77"}"#)?;
    bed.store.put("10.5.9.0-24", &format!(r#"{{"PublicIP":"{}"}}"#, bed.node(0).ip()))?;
    wait_for_rules(bed.node(0), &old.replace("10.5.1.0/24", "10.5.9.0/24"))?;
    Ok(())
}
