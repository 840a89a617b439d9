//! `--probe-interval`: what metrics and log say of other nodes that answer, do not, or may.

use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_tests::{Node, TestResult, Topology, eventually};

use crate::endpoint::{Figures, with_endpoint};
use crate::inspect::Peer;
use crate::overlay::{NETWORK, Overlay, wait_logged};

/// Time limit for nodes to be asked and counted: questions for four seconds, and an interval.
const SOON: Duration = Duration::from_secs(20);

/// Starts two nodes that ask the other ones every second.
fn start(network: &str) -> Result<Overlay> {
    let change = |agent| with_endpoint(agent).arg("--probe-interval=1");
    Overlay::launch(network, Topology::segment(2), &["--healthz-ip=0.0.0.0"; 2], 0, change)
}

/// Waits until so many nodes are counted that answer, that do not, and that may.
fn wait_counted(node: &Node, expected: [f64; 3]) -> Result<()> {
    eventually(&format!("other nodes are counted as {expected:?}"), SOON, || {
        let figures = Figures::of(node)?;
        let count = |reachable: &str| {
            figures.get(&format!("flannel_peer_reachable{{family=\"ipv4\",reachable=\"{reachable}\"}}"))
        };
        let counted = [count("yes")?, count("no")?, count("unknown")?];
        ensure!(counted == expected, "{counted:?}: {}", figures.text());
        Ok(())
    })
}

#[test]
fn nodes_that_do_not_answer_are_counted_and_named() -> TestResult {
    let overlay = start(NETWORK)?;
    let node = &overlay.nodes()[0];
    wait_counted(node, [1.0, 0.0, 0.0])?;
    let gone = Peer::fictional(88);
    overlay.etcd.put(&gone.key(), &gone.value())?;
    wait_counted(node, [1.0, 1.0, 0.0])?;
    let complaint = format!(
        "the node of {}/24 does not answer through the network, nor does its public address: `flannel-agent check --peer {}`",
        gone.base, gone.public_ip
    );
    wait_logged(&overlay.agents[0], "WARN", &[&complaint])?;
    // The other node's public address answers, and its device does not.
    let other = &overlay.nodes()[1];
    other.exec("iptables -A INPUT -i flannel.1 -j DROP")?;
    wait_counted(node, [0.0, 2.0, 0.0])?;
    let complaint = "does not answer through the network, its public address does";
    wait_logged(&overlay.agents[0], "WARN", &[complaint])?;
    // What comes to an end is not counted any longer.
    other.exec("iptables -D INPUT -i flannel.1 -j DROP")?;
    overlay.etcd.delete(&gone.key())?;
    wait_counted(node, [1.0, 0.0, 0.0])?;
    wait_logged(&overlay.agents[0], "INFO", &["all other nodes answer, after"])?;
    Ok(())
}

#[test]
fn without_tunnel_a_node_without_pods_may_be_reachable() -> TestResult {
    let overlay = start(&NETWORK.replace("vxlan", "host-gw"))?;
    let node = &overlay.nodes()[0];
    wait_counted(node, [0.0, 0.0, 1.0])?;
    // Its first pod brings the gateway.
    let _pod = overlay.nodes()[1].add_pod()?;
    wait_counted(node, [1.0, 0.0, 0.0])?;
    Ok(())
}
