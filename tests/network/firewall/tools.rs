//! Without the programs that rules are written with.

use std::os::unix::fs::symlink;

use anyhow::{Context as _, ensure};
use flannel_tests::wait::throughout;
use flannel_tests::{Agent, TestResult, eventually};

use super::{Bed, IPTABLES, LOOKS, SOON, rules};
use crate::overlay::lines_of;

#[test]
fn a_node_without_iptables_comes_up_says_so_once_and_catches_up() -> TestResult {
    let bed = Bed::new(1, IPTABLES)?;
    let node = bed.node(0);
    let path = node.dir().join("programs");
    std::fs::create_dir(&path)?;
    let agent = Agent::builder(node).store(&bed.store).arg("--dataplane=netlink").arg("--iptables-resync=1");
    let mut agent = agent.arg("--ip-masq").env("PATH", path.to_string_lossy()).start()?;
    agent.wait_ready()?;
    throughout("it says so once", LOOKS, || {
        let errors = lines_of(&agent.log(), "ERROR");
        ensure!(
            matches!(&errors[..], [error] if error.contains("`iptables` is not installed")),
            "{errors:?}"
        );
        Ok(())
    })?;
    for program in ["iptables", "iptables-restore"] {
        let found = std::env::split_paths(&std::env::var_os("PATH").context("no PATH")?)
            .map(|dir| dir.join(program))
            .find(|file| file.is_file());
        symlink(found.with_context(|| format!("{program} is not installed"))?, path.join(program))?;
    }
    eventually("the rules are there", SOON, || {
        ensure!(rules(node)?.contains("-j FLANNEL-FWD"), "{}", rules(node)?);
        ensure!(agent.log().contains("rules are complete again"), "{}", agent.log());
        Ok(())
    })?;
    Ok(())
}
