//! Nodes that share a folder know each other and keep their subnets.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use flannel_tests::traffic::ping;
use flannel_tests::{TestResult, eventually};

use super::{Bed, SOON, mode};
use crate::inspect::Peer;
use crate::overlay::lines_of;

fn expected(bed: &Bed) -> Result<BTreeMap<String, String>> {
    let peers = (0..bed.agents.len()).map(|node| bed.peer(node));
    peers.map(|peer| peer.map(|peer| (peer.name(), peer.value()))).collect()
}

#[test]
fn two_nodes_share_a_folder_and_their_pods_reach_each_other() -> TestResult {
    let bed = Bed::shared(2)?;
    ping(&bed.pods[0], bed.pods[1].ip())?;
    ping(&bed.pods[1], bed.pods[0].ip())?;
    assert_eq!(
        bed.store().leases()?,
        expected(&bed)?,
        "the files have etcd's names and values, and there are no others"
    );
    for name in bed.store().leases()?.keys() {
        assert_eq!(mode(&bed.store().file(name))?, 0o444, "an agent's lease");
    }
    for agent in &bed.agents {
        assert_eq!(lines_of(&agent.log(), "WARN"), [""; 0]);
    }
    Ok(())
}

#[test]
fn a_restart_finds_the_lease_by_public_ip_alone() -> TestResult {
    let mut bed = Bed::shared(2)?;
    let before = bed.store().leases()?;
    bed.agents[0].term()?;
    std::fs::remove_file(bed.node(0).subnet_file())?;
    bed.agents[0].restart()?;
    assert_eq!(bed.store().leases()?, before);
    Ok(())
}

#[test]
fn a_restart_takes_the_subnet_of_the_last_run_when_the_lease_is_lost() -> TestResult {
    let mut bed = Bed::shared(2)?;
    let before = bed.store().leases()?;
    bed.agents[0].term()?;
    bed.store().delete(&bed.peer(0)?.name())?;
    bed.agents[0].restart()?;
    assert_eq!(bed.store().leases()?, before);
    Ok(())
}

#[test]
fn a_deleted_lease_is_taken_again_on_the_same_subnet() -> TestResult {
    let bed = Bed::shared(2)?;
    let before = bed.store().leases()?;
    bed.store().delete(&bed.peer(0)?.name())?;
    eventually("the lease is back", SOON, || {
        ensure!(bed.store().leases()? == before, "{:?}", bed.store().leases()?);
        Ok(())
    })?;
    bed.ensure_known(&[])?;
    Ok(())
}

#[test]
fn a_spoilt_lease_is_repaired_without_loss() -> TestResult {
    let bed = Bed::shared(2)?;
    let before = bed.store().leases()?;
    let streams = bed.streams()?;
    for spoilt in ["", "overwritten by mistake", "{}"] {
        bed.store().put(&bed.peer(0)?.name(), spoilt)?;
        eventually("the lease is repaired", SOON, || {
            ensure!(bed.store().leases()? == before, "{:?}", bed.store().leases()?);
            Ok(())
        })?;
    }
    streams.ensure_whole()?;
    assert_eq!(lines_of(&bed.agents[0].log(), "ERROR"), [""; 0]);
    Ok(())
}

#[test]
fn a_node_whose_subnet_was_given_away_takes_another_and_says_so() -> TestResult {
    let bed = Bed::shared(2)?;
    let own = bed.peer(0)?;
    let intruder = Peer { base: own.base, ..Peer::fictional(99) };
    // Renamed over the agent's file, as rsync does, since the file is read-only.
    std::fs::write(bed.store().file(".intruder"), intruder.value())?;
    std::fs::rename(bed.store().file(".intruder"), bed.store().file(&own.name()))?;
    eventually("the node has another subnet", SOON, || {
        ensure!(bed.peer(0)?.base != own.base, "still {}", own.base);
        Ok(())
    })?;
    bed.ensure_known(&[intruder])?;
    let errors = lines_of(&bed.agents[0].log(), "ERROR");
    let [lost, moved] = &errors[..] else { panic!("{errors:?}") };
    assert!(lost.contains("is lost: the node 192.168.64.99 has it now"), "{lost}");
    assert!(moved.contains(&format!("had the subnet {}", own.name())), "{moved}");
    Ok(())
}

#[test]
fn a_subnet_that_is_reserved_for_an_address_is_taken_and_stays_reserved() -> TestResult {
    let mut bed = Bed::shared(2)?;
    bed.agents[0].term()?;
    bed.store().delete(&bed.peer(0)?.name())?;
    let reserved = Peer { base: [10, 5, 33, 0].into(), ..bed.peer(0)? };
    bed.store().put(&reserved.name(), &format!("{{\"PublicIP\":\"{}\"}}\n", reserved.public_ip))?;
    let env = bed.agents[0].restart()?;
    assert_eq!(env.subnet.map(|subnet| subnet.to_string()), Some("10.5.33.1/24".to_owned()));
    assert_eq!(bed.store().leases()?, expected(&bed)?);
    assert_eq!(mode(&bed.store().file(&reserved.name()))?, 0o644, "it is no longer a reservation");
    bed.ensure_known(&[])?;
    Ok(())
}
