//! Somebody sets the machine's clock. Leases end by the time that passes.

use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_tests::clock::Clock;
use flannel_tests::traffic::ping;
use flannel_tests::wait::patiently;
use flannel_tests::{Agent, Cluster, Datastore, Node, TestResult, eventually};

use crate::inspect::{self, Peer};
use crate::overlay::{NETWORK, Streams, lines_of};

/// Time limit for the nodes to follow a change.
const SOON: Duration = Duration::from_secs(15);
/// Hours by which the clock is set: two days forward and back, to 30 years ago, and right again.
const JUMPS: [i64; 4] = [48, -48, -24 * 365 * 30, 0];

/// Waits until each node knows the other one and these.
fn wait_known(nodes: &[Node], more: &[Peer]) -> Result<()> {
    patiently("the nodes know each other", SOON, || {
        for (node, other) in [(0, 1), (1, 0)] {
            let peers = [&[Peer::of(&nodes[other])?], more].concat();
            inspect::ensure_knows(&nodes[node], &peers)?;
        }
        Ok(())
    })
}

/// Sets the clock of two nodes that talk, and has them read the leases then. `put` writes a lease or removes it.
fn ensure_unimpressed<S: Datastore>(
    cluster: &Cluster,
    store: &S,
    put: impl Fn(&S, &Peer, bool) -> Result<()>,
) -> Result<(Clock, Vec<Agent>)> {
    store.configure(NETWORK)?;
    let clock = Clock::new(cluster.dir())?;
    let agents = cluster.start_agents_with(store, |agent| agent.arg("--dataplane=bpf").clock(&clock))?;
    let (nodes, pods) = (cluster.nodes(), cluster.one_pod_each()?);
    wait_known(nodes, &[])?;
    patiently("pods reach each other", SOON, || {
        ping(&pods[0], pods[1].ip()).and(ping(&pods[1], pods[0].ip()))
    })?;
    let streams = Streams::between(&pods[0], &pods[1])?;
    for hours in JUMPS {
        clock.set(hours)?;
        // Once they know a new node, they have read the leases again.
        let new = Peer::fictional(90);
        put(store, &new, true)?;
        wait_known(nodes, std::slice::from_ref(&new))?;
        put(store, &new, false)?;
        wait_known(nodes, &[])?;
    }
    streams.ensure_whole()?;
    for agent in &agents {
        ensure!(lines_of(&agent.log(), "ERROR").is_empty(), "{}", agent.log());
    }
    Ok((clock, agents))
}

#[test]
fn a_clock_that_is_set_ends_no_lease_in_a_folder() -> TestResult {
    let cluster = Cluster::segment(2)?;
    let store = cluster.local_store("leases")?;
    let (clock, mut agents) = ensure_unimpressed(&cluster, &store, |store, peer, is_there| {
        if is_there { store.put(&peer.name(), &peer.value()) } else { store.delete(&peer.name()) }
    })?;
    // Who starts by a clock that is days ahead takes the other's lease for an ended one. The other one writes it again.
    clock.set(48)?;
    agents[0].kill()?;
    agents[0].restart()?;
    wait_known(cluster.nodes(), &[])?;
    eventually("both leases are written", SOON, || {
        let leases = store.leases()?;
        ensure!(leases.len() == 2, "{leases:?}");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn a_clock_that_is_set_ends_no_lease_in_etcd() -> TestResult {
    let cluster = Cluster::segment(2)?;
    let etcd = cluster.start_etcd()?;
    ensure_unimpressed(&cluster, &etcd, |etcd, peer, is_there| {
        if is_there { etcd.put(&peer.key(), &peer.value()) } else { etcd.delete(&peer.key()) }
    })?;
    Ok(())
}
