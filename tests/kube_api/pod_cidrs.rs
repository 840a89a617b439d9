//! PodCIDRs that are missing, outside the network, or given twice: one clear message, and no harm to other nodes.

use anyhow::{Context as _, Result, ensure};
use flannel_tests::kubernetes::{Event, KubeStore};
use flannel_tests::{Agent, Cluster, Datastore as _, TestResult, eventually};

use super::bed::{Bed, NETLINK, NETWORK, SOON, register};
use crate::inspect::Peer;
use crate::overlay::{lines_of, wait_logged};

/// Starts an agent on the node, which has these podCIDRs.
fn start_with(pod_cidrs: &[&str]) -> Result<(Agent, KubeStore, Cluster)> {
    let cluster = Cluster::segment(1)?;
    let store = cluster.kube_store()?;
    store.configure(NETWORK)?;
    store.add_node("node1", pod_cidrs)?;
    let agent = Agent::builder(&cluster.nodes()[0]).store(&store).arg(NETLINK).start()?;
    Ok((agent, store, cluster))
}

/// Waits for an Event on the node whose message has this part.
fn wait_event(store: &KubeStore, node: &str, part: &str) -> Result<Event> {
    eventually("there is an Event on the node", SOON, || {
        let events = store.events(node)?;
        let found = events.iter().find(|event| event.message.contains(part));
        found.cloned().with_context(|| format!("{events:?}"))
    })
}

#[test]
fn a_node_without_pod_cidr_says_so_and_waits_for_one() -> TestResult {
    let (mut agent, store, _cluster) = start_with(&[])?;
    let name = store.name_of("node1");
    wait_logged(&agent, "ERROR", &[&name, "has no podCIDR", "--allocate-node-cidrs"])?;
    store.assign("node1", &["10.5.1.0/24"])?;
    let subnet = agent.wait_ready()?.subnet.map(|subnet| subnet.to_string());
    assert_eq!(subnet.as_deref(), Some("10.5.1.1/24"));
    // The node is deleted and registers again. kube-controller-manager takes a moment each time.
    store.delete_node("node1")?;
    wait_logged(&agent, "ERROR", &["Kubernetes has no node", &name])?;
    store.add_node("node1", &[])?;
    eventually("the agent misses the podCIDR again", SOON, || {
        let missed =
            lines_of(&agent.log(), "ERROR").iter().filter(|line| line.contains("no podCIDR")).count();
        ensure!(missed == 2, "it said so {missed} times");
        Ok(())
    })?;
    store.assign("node1", &["10.5.1.0/24"])?;
    eventually("the node is annotated", SOON, || {
        ensure!(!store.annotations("node1")?.is_empty(), "not yet");
        Ok(())
    })?;
    assert_eq!(store.events("node1")?, [], "nobody has to act");
    Ok(())
}

#[test]
fn a_pod_cidr_outside_the_network_is_refused_with_both_named() -> TestResult {
    let (mut agent, store, _cluster) = start_with(&["10.6.1.0/24"])?;
    let name = store.name_of("node1");
    wait_logged(&agent, "ERROR", &[&name, "10.6.1.0/24", "outside 10.5.0.0/16", "--cluster-cidr"])?;
    let event = wait_event(&store, "node1", "outside 10.5.0.0/16")?;
    assert_eq!((event.reason.as_str(), event.kind.as_str()), ("FlannelPodCIDR", "Warning"));
    agent.ensure_running()?;
    Ok(())
}

#[test]
fn a_node_that_kubernetes_does_not_know_is_named() -> TestResult {
    let (mut agent, store, _cluster) = {
        let cluster = Cluster::segment(1)?;
        let store = cluster.kube_store()?;
        store.configure(NETWORK)?;
        (Agent::builder(&cluster.nodes()[0]).store(&store).arg(NETLINK).start()?, store, cluster)
    };
    wait_logged(&agent, "ERROR", &[&store.name_of("node1"), "NODE_NAME"])?;
    store.add_node("node1", &["10.5.1.0/24"])?;
    agent.wait_ready()?;
    Ok(())
}

#[test]
fn of_two_nodes_with_one_pod_cidr_the_older_is_used_and_both_are_named() -> TestResult {
    let bed = Bed::start(2, NETLINK)?;
    let older = Peer::fictional(80);
    let newer =
        Peer { mac: "c6:d2:32:6f:8f:81".to_owned(), public_ip: [192, 168, 64, 81].into(), ..older.clone() };
    register(&bed.store, "a-older", &older)?;
    bed.wait_joined(std::slice::from_ref(&older))?;
    register(&bed.store, "b-newer", &newer)?;
    let names = ["a-older", "b-newer"].map(|node| bed.store.name_of(node));
    for agent in &bed.agents {
        wait_logged(agent, "WARN", &[&names[0], &names[1], "same podCIDR 10.5.80.0/24"])?;
    }
    bed.wait_joined(std::slice::from_ref(&older))?;
    bed.store.delete_node("a-older")?;
    bed.wait_joined(std::slice::from_ref(&newer))?;
    Ok(())
}

#[test]
fn a_node_whose_pod_cidr_was_given_twice_gets_an_event() -> TestResult {
    let bed = Bed::start(2, NETLINK)?;
    let twice = Peer { base: [10, 5, 1, 0].into(), ..Peer::fictional(80) };
    register(&bed.store, "twice", &twice)?;
    let event = wait_event(&bed.store, "node1", "same podCIDR 10.5.1.0/24")?;
    assert_eq!((event.reason.as_str(), event.kind.as_str()), ("FlannelPodCIDR", "Warning"));
    assert!(event.message.contains(&bed.store.name_of("twice")), "{}", event.message);
    assert_eq!(bed.store.events("node2")?, [], "the other node has no part in it");
    bed.wait_joined(&[])?;
    Ok(())
}
