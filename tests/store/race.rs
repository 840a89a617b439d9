//! Agents that start at the same time in a network with just enough subnets.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flannel_tests::etcd::PREFIX;
use flannel_tests::wait::throughout;
use flannel_tests::{Agent, Cluster, Node, TestResult, eventually};

use crate::overlay::lines_of;

/// Subnets 10.5.1.0 to 10.5.60.0: one less than nodes.
const TIGHT: &str = r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.60.0","Backend":{"Type":"vxlan"}}"#;
const NODES: usize = 60;
/// Time limit for all nodes to have a subnet.
const LIMIT: Duration = Duration::from_secs(10);
/// Time for several of the agent's attempts, one each second.
const ATTEMPTS: Duration = Duration::from_millis(2500);

/// Returns the subnets in the nodes' subnet.env, as keys in etcd.
fn written(nodes: &[Node]) -> Result<BTreeSet<String>> {
    let key = |node: &Node| {
        let subnet = node.subnet_env()?.subnet.context("no subnet")?;
        let base = std::net::Ipv4Addr::from_bits(subnet.addr.to_bits() & !0xff);
        Ok(format!("{PREFIX}/subnets/{base}-24"))
    };
    nodes.iter().map(key).collect()
}

#[test]
fn sixty_agents_share_sixty_subnets_and_one_more_waits_for_one() -> TestResult {
    let cluster = Cluster::segment(NODES + 1)?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(TIGHT)?;
    let (last, nodes) = cluster.nodes().split_last().context("no nodes")?;
    let agent = |node| Agent::builder(node).etcd(&etcd).arg("--dataplane=netlink").start();
    let start = Instant::now();
    let mut agents = nodes.iter().map(agent).collect::<Result<Vec<_>>>()?;
    agents.iter_mut().try_for_each(|agent| agent.wait_ready().map(drop))?;
    let took = start.elapsed();
    let held: BTreeSet<_> = etcd.subnets()?.into_iter().map(|entry| entry.key).collect();
    assert_eq!(held.len(), NODES, "{held:?}");
    assert_eq!(written(nodes)?, held, "subnet.env and etcd differ");
    assert!(took < LIMIT, "it took {took:?}");

    let mut late = agent(last)?;
    eventually("the agent logs that no subnet is free", LIMIT, || {
        ensure!(late.log().contains("no subnet is free: there are 60 leases"), "{}", late.log());
        Ok(())
    })?;
    throughout("the agent keeps trying", ATTEMPTS, || late.ensure_running())?;
    assert_eq!(lines_of(&late.log(), "ERROR").len(), 1, "{}", late.log());
    agents[0].term()?;
    let freed = written(&nodes[..1])?;
    etcd.delete(freed.first().context("no subnet")?)?;
    late.wait_ready()?;
    assert_eq!(written(std::slice::from_ref(last))?, freed);
    Ok(())
}
