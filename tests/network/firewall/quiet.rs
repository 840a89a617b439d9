//! While nothing changes the rules, no program is started to look at them.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::wait::throughout;
use flannel_tests::{Agent, Datastore as _, Node, TestResult, eventually};

use super::tools::installed;
use super::{Bed, IPTABLES, NFTABLES, SOON};

/// Time in which the agent looks at rules of every kind: those of legacy iptables every 5 s, its own ones every second.
const LOOKS: Duration = Duration::from_secs(6);
/// Limit until the agent has read for the last time what it wrote at its start.
const SETTLED: Duration = Duration::from_secs(30);

/// Makes a folder with these programs, which note each run in a file. Returns the folder.
fn noted(node: &Node, programs: &[(&str, &str)]) -> Result<String> {
    let folder = node.dir().join("programs");
    fs::create_dir(&folder)?;
    for (name, program) in programs {
        let mut script =
            OpenOptions::new().write(true).create_new(true).mode(0o755).open(folder.join(name))?;
        let (runs, program) = (runs_of(node), installed(program)?);
        writeln!(script, "#!/bin/sh\necho \"{name} $*\" >> {}", runs.display())?;
        writeln!(script, "exec {} \"$@\"", program.display())?;
    }
    Ok(folder.to_string_lossy().into_owned())
}

fn runs_of(node: &Node) -> PathBuf {
    node.dir().join("runs")
}

/// Returns a line for each run of a program.
fn runs(node: &Node) -> Result<Vec<String>> {
    let runs = fs::read_to_string(runs_of(node)).context("no program was run")?;
    Ok(runs.lines().map(str::to_owned).collect())
}

#[test]
fn no_tool_is_run_until_rules_change() -> TestResult {
    let bed = Bed::new(3, IPTABLES)?;
    let other = bed.cluster.local_store("nftables")?;
    other.configure(NFTABLES)?;
    let nft = ["iptables", "iptables-restore", "iptables-save", "nft"].map(|name| (name, name));
    let legacy = [
        ("iptables", "iptables-legacy"),
        ("iptables-restore", "iptables-legacy-restore"),
        ("iptables-save", "iptables-legacy-save"),
    ];
    // The new rule of legacy iptables is as long as that which it replaces.
    let modes = [
        (&bed.store, &nft[..], "iptables -S", "iptables -D FLANNEL-FWD 1"),
        (&other, &nft[..], "nft list ruleset", "nft flush chain ip flannel-ipv4 forward"),
        (
            &bed.store,
            &legacy[..],
            "iptables-legacy -w -S",
            "iptables-legacy -w -R FLANNEL-FWD 1 -s 10.6.0.0/16 -m comment --comment other -j ACCEPT",
        ),
    ];
    let mut agents = Vec::new();
    for (node, (store, programs, ..)) in bed.cluster.nodes().iter().zip(modes) {
        let agent = Agent::builder(node).store(store).arg("--iptables-resync=1");
        agents.push(agent.env("PATH", noted(node, programs)?).start()?);
    }
    for agent in &mut agents {
        agent.wait_ready()?;
    }
    let all_runs = || bed.cluster.nodes().iter().map(runs).collect::<Result<Vec<_>>>();
    eventually("no tool is run any more", SETTLED, || {
        let before = all_runs()?;
        throughout("no tool is run", LOOKS, || {
            let now = all_runs()?;
            ensure!(now == before, "{now:#?}");
            Ok(())
        })
    })?;
    for (node, (_, _, list, damage)) in bed.cluster.nodes().iter().zip(modes) {
        let whole = node.exec(list)?;
        node.exec(damage)?;
        assert_ne!(node.exec(list)?, whole, "{damage}");
        eventually(damage, SOON, || {
            let now = node.exec(list)?;
            // What is new in a chain of iptables stays there.
            let missing: Vec<_> = whole.lines().filter(|line| !now.contains(line)).collect();
            ensure!(missing.is_empty(), "{missing:?} is not in\n{now}");
            Ok(())
        })?;
    }
    Ok(())
}
