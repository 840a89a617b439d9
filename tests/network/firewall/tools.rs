//! Nodes with legacy iptables, and without iptables.

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::firewall::firewall;
use flannel_tests::wait::{patiently, throughout};
use flannel_tests::{Agent, TestResult, eventually};

use super::{Bed, CLUSTER, IPTABLES, LOOKS, SOON, rules};
use crate::endpoint::{Figures, with_endpoint};
use crate::overlay::lines_of;

/// Returns the path of an installed program.
pub(crate) fn installed(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").context("no PATH")?;
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file());
    found.with_context(|| format!("{program} is not installed: apt-get install iptables"))
}

#[test]
fn a_node_without_iptables_starts_logs_it_once_and_adds_the_rules_later() -> TestResult {
    let bed = Bed::new(1, IPTABLES)?;
    let node = bed.node(0);
    let path = node.dir().join("programs");
    std::fs::create_dir(&path)?;
    let agent = Agent::builder(node).store(&bed.store).arg("--dataplane=netlink").arg("--iptables-resync=1");
    let agent = with_endpoint(agent.arg("--ip-masq"));
    let mut agent = agent.env("PATH", path.to_string_lossy()).start()?;
    agent.wait_ready()?;
    throughout("it is logged once", LOOKS, || {
        let errors = lines_of(&agent.log(), "ERROR");
        ensure!(
            matches!(&errors[..], [error] if error.contains("`iptables` is not installed")),
            "{errors:?}"
        );
        Ok(())
    })?;
    let metrics = Figures::of(node)?;
    let failures = metrics.get("flannel_errors_total{kind=\"firewall\"}")?;
    assert!(failures >= 1.0, "no failure is counted: {}", metrics.text());
    for program in ["iptables", "iptables-restore"] {
        symlink(installed(program)?, path.join(program))?;
    }
    eventually("the rules are written", SOON, || {
        ensure!(rules(node)?.contains("-j FLANNEL-FWD"), "{}", rules(node)?);
        ensure!(agent.log().contains("rules are complete again"), "{}", agent.log());
        Ok(())
    })?;
    Ok(())
}

/// Links to the legacy variant have the name iptables.
#[test]
fn legacy_iptables_writes_the_same_rules() -> TestResult {
    let bed = Bed::new(2, IPTABLES)?;
    let (node, other) = (bed.node(0), bed.node(1));
    let path = node.dir().join("programs");
    std::fs::create_dir(&path)?;
    for program in ["iptables", "iptables-restore"] {
        symlink(installed(&program.replace("iptables", "iptables-legacy"))?, path.join(program))?;
    }
    let agent = Agent::builder(node).store(&bed.store).arg("--ip-masq").arg("--iptables-resync=1");
    let mut agent = agent.arg("--dataplane=netlink").env("PATH", path.to_string_lossy()).start()?;
    agent.wait_ready()?;
    firewall(other, "10.5.1.0/24", CLUSTER)?;
    let expected = other.exec("iptables -t nat -S")? + &other.exec("iptables -S")?;
    let legacy = || -> Result<String> {
        Ok(node.exec("iptables-legacy -w -t nat -S")? + &node.exec("iptables-legacy -w -S")?)
    };
    // The agent is ready before its rules are written if that takes seconds.
    let complete = || -> Result<()> {
        let rules = legacy()?;
        ensure!(rules == expected, "{rules}\ninstead of\n{expected}");
        Ok(())
    };
    patiently("the rules are written", SOON, complete)?;
    node.exec("iptables-legacy -w -t nat -D FLANNEL-POSTRTG 4")?;
    node.exec("iptables-legacy -w -F FLANNEL-FWD")?;
    eventually("the rules are back", SOON, complete)?;
    assert_eq!(lines_of(&agent.log(), "ERROR"), [""; 0]);
    Ok(())
}

#[test]
fn rules_go_where_kubelet_has_left_its_mark_and_leave_the_other_variant() -> TestResult {
    let bed = Bed::new(1, IPTABLES)?;
    let node = bed.node(0);
    let agent = || Agent::builder(node).store(&bed.store).arg("--dataplane=netlink").start();
    let shown =
        || anyhow::Ok(["nft", "legacy"].map(|variant| node.exec(&format!("iptables-{variant}-save"))));
    for (mark, has_rules) in [("nft", [true, false]), ("legacy", [false, true])] {
        node.exec("iptables-nft -t mangle -X")?;
        node.exec(&format!("iptables-{mark} -t mangle -N KUBE-IPTABLES-HINT"))?;
        let mut agent = agent()?;
        agent.wait_ready()?;
        eventually(mark, SOON, || {
            let shown = shown()?.into_iter().collect::<Result<Vec<_>>>()?;
            let found: Vec<_> = shown.iter().map(|saved| saved.contains("-A FLANNEL-FWD")).collect();
            ensure!(found == has_rules, "{shown:?}");
            Ok(())
        })?;
        assert_eq!(lines_of(&agent.log(), "ERROR"), [""; 0]);
        agent.term()?;
    }
    Ok(())
}
