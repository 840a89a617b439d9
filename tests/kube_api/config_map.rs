//! The network configuration in a ConfigMap, which the kubelet replaces while the agent runs.

use anyhow::ensure;
use flannel_tests::{Datastore as _, TestResult, eventually};

use super::bed::{BPF, Bed, NETWORK, SOON};
use crate::inspect;
use crate::overlay::wait_logged;

#[test]
fn a_change_for_the_running_node_is_made_without_a_lost_packet() -> TestResult {
    let bed = Bed::start(2, BPF)?;
    let streams = bed.streams()?;
    let node = &bed.nodes()[0];
    bed.store.configure(&NETWORK.replace(r#""vxlan""#, r#""vxlan","FlowCache":false"#))?;
    for agent in &bed.agents {
        wait_logged(agent, "INFO", &["the network configuration has changed", "FlowCache"])?;
    }
    eventually("the pods' programs are off", SOON, || {
        let programs = inspect::programs(node, bed.pods[0].port())?;
        ensure!(programs.is_empty(), "{programs:?}");
        Ok(())
    })?;
    bed.wait_joined(&[])?;
    streams.ensure_whole()?;
    Ok(())
}

#[test]
fn a_change_for_all_nodes_is_named_and_waits_for_their_restart() -> TestResult {
    let bed = Bed::start(2, BPF)?;
    let streams = bed.streams()?;
    bed.store.configure(&NETWORK.replace(r#""vxlan""#, r#""vxlan","VNI":7"#))?;
    for agent in &bed.agents {
        wait_logged(agent, "WARN", &["VNI", "takes effect when the agents of all nodes are restarted"])?;
    }
    bed.ensure_follows()?;
    streams.ensure_whole()?;
    Ok(())
}

#[test]
fn a_configuration_that_is_not_json_is_refused_and_the_old_one_stays() -> TestResult {
    let bed = Bed::start(2, BPF)?;
    bed.store.configure("{")?;
    for agent in &bed.agents {
        wait_logged(agent, "ERROR", &["net-conf.json", "the one in use stays"])?;
    }
    bed.ensure_follows()?;
    Ok(())
}
