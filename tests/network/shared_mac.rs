//! Nodes whose vxlan devices have one MAC, as cloned machines may: the programs tell them apart, and all nodes say it.

use std::time::Duration;

use anyhow::ensure;
use flannel_tests::wait::patiently;
use flannel_tests::{Cluster, TestResult, Topology, eventually};

use crate::overlay::{NETWORK, Overlay, lines_of, ping_all_pairs};

const MAC: &str = "c6:d2:32:6f:8f:44";
/// Time limit for the nodes to know each other.
const JOINING: Duration = Duration::from_secs(10);

#[test]
fn nodes_with_one_mac_reach_each_other_and_are_named() -> TestResult {
    let cluster = Cluster::build(Topology::segment(3))?;
    for clone in &cluster.nodes()[1..] {
        let device =
            format!("link add flannel.1 address {MAC} type vxlan id 1 dstport 8472 dev eth0 nolearning");
        clone.netns().ip(&[device])?;
    }
    let mut overlay = Overlay::launch_on(NETWORK, cluster, &["--dataplane=bpf"; 3], 1, |agent| agent)?;
    patiently("all pods reach each other", JOINING, || ping_all_pairs(overlay.pods.iter().flatten()))?;
    let [one, other] = [overlay.base(1)?, overlay.base(2)?];
    let mut bases = [one, other];
    bases.sort_unstable();
    for (agent, named) in overlay.agents.iter().zip([
        format!(" the nodes with the pod subnets at {bases:?} have one VTEP MAC, {MAC}"),
        format!(" this node and the nodes with the pod subnets at [{other}] have one VTEP MAC, {MAC}"),
        format!(" this node and the nodes with the pod subnets at [{one}] have one VTEP MAC, {MAC}"),
    ]) {
        eventually("it is logged", JOINING, || {
            let mut warnings = lines_of(&agent.log(), "WARN");
            warnings.retain(|line| line.contains("have one VTEP MAC"));
            ensure!(warnings.len() == 1 && warnings[0].contains(&named), "{warnings:#?}");
            Ok(())
        })?;
    }
    // A running agent would write its lease again, and the others might see both as one change.
    overlay.agents[1].term()?;
    overlay.etcd.delete(&overlay.peer(1)?.key())?;
    eventually("its end is logged", JOINING, || {
        let log = overlay.agents[2].log();
        ensure!(log.contains("each node has a VTEP MAC of its own again"), "{log}");
        Ok(())
    })?;
    Ok(())
}
