//! Which rules there are, and in which order.

use anyhow::{Result, ensure};
use flannel_tests::TestResult;
use flannel_tests::firewall::firewall as flanneld_writes;
use flannel_tests::wait::throughout;

use super::{Bed, CLUSTER, FOREIGN, IPTABLES, LOOKS, become_rules, rules};

/// A node with rules of others on which an agent has been started, and the rules where flanneld has been instead.
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
fn rules_and_their_order_are_flanneld_s() -> TestResult {
    let (bed, flanneld_s) = beside_flanneld(&["--ip-masq"])?;
    assert_eq!(rules(bed.node(0))?, flanneld_s);
    assert!(bed.node(0).subnet_env()?.ip_masq);
    Ok(())
}

#[test]
fn flags_say_which_rules_there_are() -> TestResult {
    let (mut bed, flanneld_s) = beside_flanneld(&["--ip-masq"])?;
    let without = |words: &[&str]| -> String {
        let lines = flanneld_s.lines().filter(|line| !words.iter().any(|word| line.contains(word)));
        lines.map(|line| format!("{line}\n")).collect()
    };
    for (flag, expected) in [
        ("--ip-masq-fully-random-disable", flanneld_s.replace(" --random-fully", "")),
        ("--ip-masq-fully-random-disable=false", flanneld_s.clone()),
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
fn flanneld_s_rules_are_taken_over_as_they_are() -> TestResult {
    let mut bed = Bed::new(1, IPTABLES)?;
    flanneld_writes(bed.node(0), "10.5.1.0/24", CLUSTER)?;
    // With the kernel's number of each rule, which a rewritten one does not keep.
    let numbered = |bed: &Bed| bed.node(0).exec("nft -a -s list ruleset");
    let before = numbered(&bed)?;
    bed.start(&["--ip-masq"])?;
    throughout("no rule is written anew", LOOKS, || {
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
    become_rules(bed.node(0), &old.replace("10.5.1.0/24", "10.5.9.0/24"))?;
    Ok(())
}

#[test]
fn the_rules_follow_a_subnet_that_changes_while_the_agent_runs() -> TestResult {
    let bed = Bed::started(1, IPTABLES, &["--ip-masq"])?;
    let old = rules(bed.node(0))?;
    // Another node has been given the subnet.
    bed.store.put("10.5.1.0-24", r#"{"PublicIP":"192.168.64.77"}"#)?;
    bed.store.put("10.5.9.0-24", &format!(r#"{{"PublicIP":"{}"}}"#, bed.node(0).ip()))?;
    become_rules(bed.node(0), &old.replace("10.5.1.0/24", "10.5.9.0/24"))?;
    Ok(())
}
