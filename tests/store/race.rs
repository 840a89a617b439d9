//! Agents that start at the same moment, in a network that has just enough subnets.

use std::collections::BTreeSet;

use flannel_tests::traffic::ping;
use flannel_tests::{Cluster, TestResult, eventually};

/// Subnets 10.5.1.0 to 10.5.7.0: as many as nodes.
const TIGHT: &str = r#"{"Network":"10.5.0.0/21","SubnetLen":24,"Backend":{"Type":"vxlan"}}"#;
const NODES: usize = 7;

#[test]
fn every_agent_gets_a_subnet_of_its_own() -> TestResult {
    let cluster = Cluster::segment(NODES)?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(TIGHT)?;
    let _agents = cluster.start_agents_with(&etcd, |agent| agent.arg("--dataplane=netlink"))?;
    let keys: BTreeSet<String> = etcd.subnets()?.into_iter().map(|entry| entry.key).collect();
    let expected =
        (1..=NODES).map(|n| format!("{}/subnets/10.5.{n}.0-24", flannel_tests::etcd::PREFIX)).collect();
    assert_eq!(keys, expected);
    let subnets: BTreeSet<String> = cluster
        .nodes()
        .iter()
        .map(|node| Ok(format!("{:?}", node.subnet_env()?.subnet)))
        .collect::<anyhow::Result<_>>()?;
    assert_eq!(subnets.len(), NODES, "nodes have told their pods the same subnet: {subnets:?}");
    let pods = cluster.one_pod_each()?;
    for pod in &pods[1..] {
        eventually("the pods reach each other", std::time::Duration::from_secs(5), || {
            ping(&pods[0], pod.ip())
        })?;
    }
    Ok(())
}
