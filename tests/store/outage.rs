//! Outages of etcd: it starts late, ends, or hangs. The agent waits, and traffic goes on.

use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_tests::cluster::MGMT;
use flannel_tests::traffic::ping;
use flannel_tests::wait::throughout;
use flannel_tests::{Agent, Cluster, TestResult, eventually};

use crate::inspect::Peer;
use crate::overlay::{NETWORK, Overlay, lines_of};

/// Time for several of the agent's attempts, one each second.
const ATTEMPTS: Duration = Duration::from_millis(2500);
/// Time for which etcd is unreachable under traffic.
const AWAY: Duration = Duration::from_millis(500);
/// Time limit for the agent to notice that etcd hangs: more than its keep-alive ping and the wait for the answer.
const NOTICED: Duration = Duration::from_secs(15);
/// Time limit to watch again: more than the longest pause between two attempts.
const WATCHING_AGAIN: Duration = Duration::from_secs(8);

#[test]
fn an_agent_that_starts_before_etcd_waits_for_it() -> TestResult {
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
    eventually("the agent logs that there is no configuration", WATCHING_AGAIN, || {
        ensure!(agent.log().contains("etcd has no network config. Set it with"), "not yet");
        Ok(())
    })?;
    etcd.configure(NETWORK)?;
    agent.wait_ready()?;
    Ok(())
}

fn late_peer() -> Peer {
    Peer::fictional(90)
}

/// Writes a new lease, and waits until both nodes follow it.
fn ensure_follows(overlay: &Overlay) -> Result<()> {
    let new = late_peer();
    overlay.etcd.put(&new.key(), &new.value())?;
    for node in 0..overlay.nodes().len() {
        eventually("a new lease is followed", WATCHING_AGAIN, || {
            overlay.ensure_knows_others(node, std::slice::from_ref(&new))
        })?;
    }
    Ok(())
}

fn ensure_pods_talk(overlay: &Overlay) -> Result<()> {
    let (one, other) = overlay.two_pods();
    throughout("pods reach each other", AWAY, || ping(one, other.ip()).map(drop))
}

#[test]
fn leases_are_followed_after_etcd_has_restarted() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let streams = overlay.streams()?;
    let leases = overlay.etcd.subnets()?;
    overlay.etcd.kill()?;
    ensure_pods_talk(&overlay)?;
    overlay.etcd.restart()?;
    ensure_follows(&overlay)?;
    overlay.etcd.delete(&late_peer().key())?;
    assert_eq!(overlay.etcd.subnets()?, leases, "the leases have changed");
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

/// Pauses etcd under traffic until `until` returns and pods have reached each other for a while, then continues it.
fn hang(until: impl Fn(&Overlay) -> Result<()>) -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let streams = overlay.streams()?;
    overlay.etcd.stop()?;
    until(&overlay)?;
    ensure_pods_talk(&overlay)?;
    overlay.etcd.cont()?;
    ensure_follows(&overlay)?;
    streams.ensure_whole()?;
    Ok(())
}

#[test]
fn leases_are_followed_after_etcd_has_hung_for_a_moment() -> TestResult {
    hang(|_| Ok(()))
}

#[test]
fn leases_are_followed_after_the_watch_was_given_up() -> TestResult {
    hang(|overlay| {
        overlay.agents.iter().try_for_each(|agent| {
            eventually("the agents notice", NOTICED, || {
                ensure!(agent.log().contains("lost the watch on the leases"), "{}", agent.log());
                Ok(())
            })
        })
    })
}

#[test]
fn leases_are_followed_after_history_was_compacted() -> TestResult {
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
