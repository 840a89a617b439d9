//! etcd comes late, goes away, hangs: the agent waits, the traffic does not.

use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_tests::cluster::MGMT;
use flannel_tests::traffic::ping;
use flannel_tests::wait::throughout;
use flannel_tests::{Agent, Cluster, TestResult, eventually};

use crate::inspect::{self, Peer};
use crate::overlay::{NETWORK, Overlay, lines_of};

/// Several of the agent's attempts, one in a second.
const ATTEMPTS: Duration = Duration::from_millis(2500);
/// How long etcd is away under traffic.
const AWAY: Duration = Duration::from_millis(500);
/// A ping, the wait for its answer, and some room.
const NOTICED: Duration = Duration::from_secs(15);
/// The longest pause between attempts to watch again, and some room.
const WATCHING_AGAIN: Duration = Duration::from_secs(8);

#[test]
fn an_agent_that_is_earlier_than_etcd_waits_for_it() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let endpoint = format!("--etcd-endpoints=http://{MGMT}:2379");
    let mut agent = Agent::builder(&cluster.nodes()[0]).arg(&endpoint).start()?;
    throughout("the agent keeps trying", ATTEMPTS, || agent.ensure_running())?;
    let errors = lines_of(&agent.log(), "ERROR");
    let [error] = &errors[..] else { panic!("not one line: {errors:#?}") };
    for said in ["reading the network config", &MGMT.to_string(), "refused", "trying again"] {
        assert!(error.contains(said), "no {said:?} in {error}");
    }
    let etcd = cluster.start_etcd()?;
    eventually("it says that there is no configuration", WATCHING_AGAIN, || {
        ensure!(agent.log().contains("etcd has no network config. Set it with"), "not yet");
        Ok(())
    })?;
    etcd.configure(NETWORK)?;
    agent.wait_ready()?;
    Ok(())
}

fn late_peer() -> Peer {
    Peer {
        base: [10, 5, 90, 0].into(),
        public_ip: [192, 168, 64, 90].into(),
        mac: "c6:d2:32:6f:8f:5a".to_owned(),
    }
}

/// A lease that is written now reaches both nodes.
fn ensure_follows(overlay: &Overlay) -> Result<()> {
    let new = late_peer();
    overlay.etcd.put(&new.key(), &new.value())?;
    for (node, other) in [(0, 1), (1, 0)] {
        let peers = [overlay.peer(other)?, new.clone()];
        eventually("a new lease is followed", WATCHING_AGAIN, || {
            inspect::ensure_knows(&overlay.nodes()[node], &peers)
        })?;
    }
    Ok(())
}

fn ensure_pods_talk(overlay: &Overlay) -> Result<()> {
    let (one, other) = overlay.two_pods();
    throughout("pods reach each other", AWAY, || ping(one, other.ip()).map(drop))
}

#[test]
fn etcd_dies_and_comes_back_with_its_data() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let streams = overlay.streams()?;
    let leases = overlay.etcd.subnets()?;
    overlay.etcd.kill()?;
    ensure_pods_talk(&overlay)?;
    overlay.etcd.restart()?;
    ensure_follows(&overlay)?;
    overlay.etcd.delete(&late_peer().key())?;
    assert_eq!(overlay.etcd.subnets()?, leases, "the leases are those that were there");
    streams.ensure_whole()?;
    for agent in &mut overlay.agents {
        agent.ensure_running()?;
        let warnings = lines_of(&agent.log(), "WARN");
        let [warning] = &warnings[..] else { panic!("not one warning: {warnings:#?}") };
        assert!(warning.contains("lost the watch on the leases"), "{warning}");
        assert!(agent.log().contains("watching the leases again"), "{}", agent.log());
    }
    Ok(())
}

#[test]
fn etcd_hangs_for_a_while() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let streams = overlay.streams()?;
    overlay.etcd.stop()?;
    ensure_pods_talk(&overlay)?;
    overlay.etcd.cont()?;
    ensure_follows(&overlay)?;
    streams.ensure_whole()?;
    Ok(())
}

#[test]
fn etcd_hangs_until_it_is_given_up() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let streams = overlay.streams()?;
    overlay.etcd.stop()?;
    for agent in &overlay.agents {
        eventually("the agents notice", NOTICED, || {
            ensure!(agent.log().contains("lost the watch on the leases"), "{}", agent.log());
            Ok(())
        })?;
    }
    ensure_pods_talk(&overlay)?;
    overlay.etcd.cont()?;
    ensure_follows(&overlay)?;
    streams.ensure_whole()?;
    Ok(())
}

#[test]
fn history_is_compacted_while_the_agent_cannot_read_it() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let streams = overlay.streams()?;
    overlay.agents.iter().try_for_each(|agent| agent.signal(nix::sys::signal::Signal::SIGSTOP))?;
    overlay.etcd.restart()?;
    overlay.etcd.put(&late_peer().key(), "{}")?;
    overlay.etcd.delete(&late_peer().key())?;
    overlay.etcd.compact()?;
    overlay.agents.iter().try_for_each(|agent| agent.signal(nix::sys::signal::Signal::SIGCONT))?;
    ensure_follows(&overlay)?;
    streams.ensure_whole()?;
    Ok(())
}
