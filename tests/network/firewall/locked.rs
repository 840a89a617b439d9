//! A node on which another program holds the lock of iptables.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use flannel_tests::wait::scaled;
use flannel_tests::{Agent, Node, TestResult, eventually};
use nix::fcntl::{Flock, FlockArg};

use super::tools::installed;
use super::{Bed, IPTABLES, SOON};
use crate::overlay::lines_of;

/// How long a node may take to follow a lease, or to repair a route.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Time limit for an agent to end while iptables waits.
const ENDING: Duration = Duration::from_secs(1);

fn route(node: &Node) -> Result<()> {
    let routes = node.exec("ip route show")?;
    ensure!(routes.contains("10.5.2.0/24 via"), "{routes}");
    Ok(())
}

/// The lock is one of this node's own: `XTABLES_LOCKFILE` names it.
#[test]
fn a_locked_iptables_delays_its_rules_alone() -> TestResult {
    let bed = Bed::new(2, IPTABLES)?;
    let node = bed.node(0);
    let path = node.dir().join("programs");
    std::fs::create_dir(&path)?;
    for program in ["iptables", "iptables-restore"] {
        symlink(installed(&program.replace("iptables", "iptables-legacy"))?, path.join(program))?;
    }
    let file = node.dir().join("xtables.lock");
    let lock = |file: File| {
        Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|(_, error)| anyhow!("lock iptables: {error}"))
    };
    let held = lock(File::create(&file)?)?;
    let agent = Agent::builder(node).store(&bed.store).arg("--ip-masq").arg("--iptables-resync=1");
    let agent = agent.env("PATH", path.to_string_lossy()).env("XTABLES_LOCKFILE", file.to_string_lossy());
    let mut agent = agent.start()?;
    agent.wait_ready()?;
    let mut other = Agent::builder(bed.node(1)).store(&bed.store).start()?;
    other.wait_ready()?;
    eventually("a new node is known", AT_ONCE, || route(node))?;
    node.exec("ip route del 10.5.2.0/24")?;
    eventually("a deleted route is back", AT_ONCE, || route(node))?;
    bed.store.put("10.5.1.0-24", "{}")?;
    eventually("the own lease is repaired", SOON, || {
        let leases = bed.store.leases()?;
        ensure!(leases["10.5.1.0-24"].contains(&node.ip().to_string()), "{leases:?}");
        Ok(())
    })?;
    let said = eventually("the reason is said", 2 * SOON, || {
        let errors = lines_of(&agent.log(), "ERROR");
        ensure!(!errors.is_empty(), "no error");
        Ok(errors)
    })?;
    assert!(matches!(&said[..], [error] if error.contains("holds the lock of `iptables`")), "{said:?}");
    let warned = agent.log().matches("the firewall rules are not written after 3 s").count();
    assert_eq!(warned, 1, "{}", agent.log());
    // A restart does not wait either.
    let start = Instant::now();
    agent.term()?;
    assert!(start.elapsed() < scaled(ENDING), "it took {:?} to end", start.elapsed());
    agent.restart()?;
    let before = node.exec("iptables-legacy -w -t nat -S").context("the rules")?;
    assert!(!before.contains("FLANNEL"), "rules in spite of the lock: {before}");
    eventually("the reason is said again", 2 * SOON, || {
        ensure!(lines_of(&agent.log(), "ERROR").len() == 2, "{:?}", lines_of(&agent.log(), "ERROR"));
        Ok(())
    })?;
    drop(held);
    eventually("the rules are written", 2 * SOON, || {
        let rules = node.exec("iptables-legacy -w -t nat -S")? + &node.exec("iptables-legacy -w -S")?;
        ensure!(rules.contains("-j FLANNEL-FWD") && rules.contains("-j FLANNEL-POSTRTG"), "{rules}");
        ensure!(agent.log().contains("the firewall rules are complete again"), "{}", agent.log());
        Ok(())
    })?;
    Ok(())
}
