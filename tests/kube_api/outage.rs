//! Outages of the API server: forwarding goes on, and Nodes are followed afterwards.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use flannel_tests::kubernetes::ApiServer;
use flannel_tests::traffic::ping;
use flannel_tests::wait::throughout;
use flannel_tests::{Agent, Cluster, Datastore as _, TestResult, eventually};

use super::bed::{BPF, Bed, NETLINK, NETWORK, SOON, ensure_not_logged, register};
use crate::inspect::{self, Peer};
use crate::overlay::wait_logged;

/// Time under traffic without an API server.
const AWAY: Duration = Duration::from_millis(500);

fn ensure_pods_talk(bed: &Bed) -> Result<()> {
    throughout("pods reach each other", AWAY, || ping(&bed.pods[0], bed.pods[1].ip()).map(drop))
}

/// Registers a node, cuts the agents' way to the API server, and registers another node in the place of the first. Returns
/// both.
fn replace_behind_a_cut(bed: &Bed) -> Result<[Peer; 2]> {
    let [gone, new] = [Peer::fictional(90), Peer::fictional(91)];
    register(&bed.store, "gone", &gone)?;
    bed.wait_joined(std::slice::from_ref(&gone))?;
    bed.store.forwarder().cut();
    bed.store.delete_node("gone")?;
    register(&bed.store, "new", &new)?;
    Ok([gone, new])
}

#[test]
fn nodes_are_followed_after_the_api_server_has_restarted() -> TestResult {
    let server = Arc::new(ApiServer::start()?);
    let cluster = Cluster::segment(2)?;
    let store = cluster.kube_store_at(&server)?;
    let bed = Bed::start_in(cluster, store, BPF)?;
    let streams = bed.streams()?;
    server.kill()?;
    for agent in &bed.agents {
        wait_logged(agent, "WARN", &["lost the watch"])?;
    }
    ensure_pods_talk(&bed)?;
    server.restart()?;
    bed.ensure_follows()?;
    streams.ensure_whole()?;
    Ok(())
}

#[test]
fn changes_while_the_way_was_cut_are_followed_afterwards() -> TestResult {
    let bed = Bed::start(2, BPF)?;
    let streams = bed.streams()?;
    let [gone, new] = replace_behind_a_cut(&bed)?;
    ensure_pods_talk(&bed)?;
    bed.wait_joined(std::slice::from_ref(&gone))?;
    bed.store.forwarder().open();
    bed.wait_joined(std::slice::from_ref(&new))?;
    streams.ensure_whole()?;
    Ok(())
}

#[test]
fn changes_while_the_connection_stood_still_are_followed_afterwards() -> TestResult {
    let bed = Bed::start(2, NETLINK)?;
    let streams = bed.streams()?;
    bed.store.forwarder().stall();
    let late = Peer::fictional(90);
    register(&bed.store, "late", &late)?;
    ensure_pods_talk(&bed)?;
    bed.wait_joined(&[])?;
    bed.store.forwarder().open();
    bed.wait_joined(std::slice::from_ref(&late))?;
    streams.ensure_whole()?;
    Ok(())
}

#[test]
fn connections_that_break_again_and_again_lose_no_change() -> TestResult {
    let bed = Bed::start(2, NETLINK)?;
    let mut known = Vec::new();
    for number in 90..95 {
        bed.store.forwarder().reset();
        let peer = Peer::fictional(number);
        register(&bed.store, &format!("node-{number}"), &peer)?;
        known.push(peer);
    }
    bed.wait_joined(&known)?;
    for agent in &bed.agents {
        ensure_not_logged(agent, "ERROR", "")?;
    }
    Ok(())
}

#[test]
fn an_agent_that_starts_before_the_api_server_waits_for_it() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let store = cluster.kube_store()?;
    store.configure(NETWORK)?;
    store.add_node("node1", &["10.5.1.0/24"])?;
    store.forwarder().cut();
    let mut agent = Agent::builder(&cluster.nodes()[0]).store(&store).arg(NETLINK).start()?;
    wait_logged(&agent, "ERROR", &["https://169.254.77.1:6443"])?;
    agent.ensure_running()?;
    store.forwarder().open();
    agent.wait_ready()?;
    Ok(())
}

#[test]
fn an_agent_that_ends_leaves_its_node_known() -> TestResult {
    let mut bed = Bed::start(2, NETLINK)?;
    let remote = Peer::of(&bed.nodes()[1])?;
    bed.agents[1].term()?;
    let late = Peer::fictional(90);
    register(&bed.store, "late", &late)?;
    eventually("the first node follows on", SOON, || {
        inspect::ensure_knows(&bed.nodes()[0], &[remote.clone(), late.clone()])
    })?;
    ping(&bed.pods[0], bed.pods[1].ip())?;
    Ok(())
}

#[test]
fn an_agent_that_restarts_without_an_api_server_forwards_and_reconciles_later() -> TestResult {
    let mut bed = Bed::start(2, BPF)?;
    let streams = bed.streams()?;
    let [gone, new] = replace_behind_a_cut(&bed)?;
    bed.agents[0].term()?;
    bed.agents[0].restart()?;
    ensure_pods_talk(&bed)?;
    bed.wait_joined(std::slice::from_ref(&gone))?;
    bed.store.forwarder().open();
    bed.wait_joined(std::slice::from_ref(&new))?;
    streams.ensure_whole()?;
    Ok(())
}
