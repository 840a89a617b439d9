//! What the agent listens on.

use anyhow::{Context as _, Result};
use flannel_tests::{Agent, Cluster, Node, TestResult};

use crate::endpoint::with_endpoint;
use crate::overlay::NETWORK;

/// Returns the addresses of the node's TCP sockets that wait for connections.
fn listening(node: &Node) -> Result<Vec<String>> {
    let sockets = node.exec("ss -Hltn")?;
    sockets
        .lines()
        .map(|line| line.split_whitespace().nth(3).map(str::to_owned).context("a socket without an address"))
        .collect()
}

#[test]
fn the_health_endpoint_is_the_only_one_and_off_by_default() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(NETWORK)?;
    let node = &cluster.nodes()[0];
    let agent = || Agent::builder(node).etcd(&etcd).arg("--dataplane=bpf");
    for (agent, expected) in [
        (agent(), vec![]),
        (agent().arg("--healthz-ip=127.0.0.1"), vec![]),
        (with_endpoint(agent()), vec!["0.0.0.0:300"]),
        (with_endpoint(agent()).arg("--healthz-ip=127.0.0.1"), vec!["127.0.0.1:300"]),
    ] {
        let mut agent = agent.start()?;
        agent.wait_ready()?;
        assert_eq!(listening(node)?, expected);
        agent.term()?;
    }
    Ok(())
}
