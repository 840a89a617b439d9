//! A node that starts without an answer of etcd goes on with what it knew before, and repairs it.

use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_tests::etcd::PREFIX;
use flannel_tests::traffic::ping;
use flannel_tests::wait::throughout;
use flannel_tests::{Agent, AgentBuilder, TestResult, Topology, eventually};

use crate::inspect::{self, DEVICE, Peer, UPLINK};
use crate::overlay::{NETWORK, Overlay, lines_of, with_backend_keys};

/// Time limit for a repair, and for following etcd again.
const SOON: Duration = Duration::from_secs(10);
/// Time for which traffic has to flow without etcd.
const AWAY: Duration = Duration::from_millis(1500);
const GOES_ON: &str = "going on with the subnet and the nodes of the last run";

fn ensure_pods_talk(overlay: &Overlay) -> Result<()> {
    let (one, other) = overlay.two_pods();
    ping(one, other.ip()).and(ping(other, one.ip())).map(drop)
}

fn wait_logged(overlay: &Overlay, node: usize, text: &str) -> Result<()> {
    eventually(text, SOON, || {
        let log = overlay.agents[node].log();
        ensure!(log.contains(text), "not logged: {log}");
        Ok(())
    })
}

/// Writes a lease, and waits until the first node follows it.
fn ensure_follows(overlay: &Overlay) -> Result<()> {
    let new = Peer::fictional(90);
    overlay.etcd.put(&new.key(), &new.value())?;
    let peers = [overlay.peer(1)?, new];
    eventually("a new lease is followed", SOON, || inspect::ensure_knows(&overlay.nodes()[0], &peers))
}

/// Restarts the first node's agent under traffic, while etcd does not answer since `leave`.
fn restarts_without_etcd(leave: impl Fn(&mut Overlay) -> Result<()>) -> Result<Overlay> {
    let mut overlay = Overlay::bpf(2)?;
    let streams = overlay.streams()?;
    // By then the agent has written down what it knows.
    wait_written(&overlay)?;
    leave(&mut overlay)?;
    let before = overlay.nodes()[0].subnet_env()?;
    let env = overlay.agents[0].restart()?;
    ensure!(env == before, "{env:?}, not {before:?}");
    wait_logged(&overlay, 0, GOES_ON)?;
    throughout("pods reach each other", AWAY, || ensure_pods_talk(&overlay))?;
    let said =
        lines_of(&overlay.agents[0].log(), "WARN").iter().filter(|line| line.contains(GOES_ON)).count();
    ensure!(said == 1, "said {said} times");
    streams.ensure_whole()?;
    Ok(overlay)
}

fn wait_written(overlay: &Overlay) -> Result<()> {
    let file = overlay.nodes()[0].dir().join("subnet.last-known.json");
    let peer = overlay.peer(1)?.name();
    eventually("what is known is written", SOON, || {
        let text = std::fs::read_to_string(&file)?;
        ensure!(text.contains(&peer), "no {peer} in {text}");
        Ok(())
    })
}

/// Damages what the first node has, in each of these ways, and waits until it is repaired.
fn heals(overlay: &Overlay, damages: &[String]) -> Result<()> {
    let (node, peer) = (&overlay.nodes()[0], overlay.peer(1)?);
    let mac = inspect::link(node, DEVICE)?.mac;
    for damage in damages {
        node.exec(damage)?;
        eventually(damage, SOON, || {
            inspect::ensure_knows(node, std::slice::from_ref(&peer))?;
            let programs = [UPLINK, DEVICE].map(|interface| inspect::programs(node, interface));
            let programs = programs.into_iter().collect::<Result<Vec<_>>>()?.concat();
            ensure!(programs.len() == 3, "{programs:?}");
            ensure!(inspect::link(node, DEVICE)?.mac == mac, "the device has another MAC");
            ensure_pods_talk(overlay)
        })?;
    }
    Ok(())
}

#[test]
fn an_agent_restarted_while_etcd_is_away_loses_nothing_repairs_damage_and_follows_etcd_later() -> TestResult {
    let mut overlay = restarts_without_etcd(|overlay| overlay.etcd.kill())?;
    let (base, pins) = (overlay.base(1)?, inspect::pins(&overlay.nodes()[0])?);
    heals(
        &overlay,
        &[
            format!("ip route del {base}/24"),
            format!("ip neigh del {base} dev {DEVICE}"),
            format!("bpftool link detach pinned {}", pins.path("underlay_ingress_link").display()),
            format!("ip link del {DEVICE}"),
        ],
    )?;
    overlay.etcd.restart()?;
    wait_logged(&overlay, 0, "the datastore answers again")?;
    ensure_follows(&overlay)?;
    Ok(())
}

#[test]
fn an_agent_restarted_while_etcd_hangs_loses_nothing_and_follows_etcd_later() -> TestResult {
    let mut overlay = restarts_without_etcd(|overlay| overlay.etcd.stop())?;
    overlay.etcd.cont()?;
    wait_logged(&overlay, 0, "the datastore answers again")?;
    ensure_follows(&overlay)?;
    Ok(())
}

#[test]
fn a_device_deleted_while_neither_agent_nor_etcd_runs_comes_back_with_its_mac_and_peers() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    wait_written(&overlay)?;
    overlay.etcd.kill()?;
    overlay.agents[0].kill()?;
    let mac = inspect::link(&overlay.nodes()[0], DEVICE)?.mac;
    overlay.nodes()[0].exec(&format!("ip link del {DEVICE}"))?;
    overlay.agents[0].restart()?;
    assert_eq!(inspect::link(&overlay.nodes()[0], DEVICE)?.mac, mac);
    eventually("pods reach each other", SOON, || ensure_pods_talk(&overlay))?;
    Ok(())
}

#[test]
fn a_lease_that_is_gone_when_etcd_is_back_is_removed() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let stale = Peer::fictional(91);
    overlay.etcd.put(&stale.key(), &stale.value())?;
    let both = [overlay.peer(1)?, stale.clone()];
    eventually("both are known", SOON, || inspect::ensure_knows(&overlay.nodes()[0], &both))?;
    overlay.agents[0].term()?;
    overlay.etcd.delete(&stale.key())?;
    overlay.etcd.kill()?;
    overlay.agents[0].restart()?;
    eventually("both are still known", SOON, || inspect::ensure_knows(&overlay.nodes()[0], &both))?;
    overlay.etcd.restart()?;
    eventually("one is known", SOON, || inspect::ensure_knows(&overlay.nodes()[0], &both[..1]))?;
    Ok(())
}

#[test]
fn another_configuration_is_taken_over_when_etcd_is_back() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    wait_written(&overlay)?;
    overlay.agents[0].term()?;
    let network = with_backend_keys(NETWORK, r#""FlowCache":false"#);
    overlay.etcd.configure(&network)?;
    overlay.etcd.kill()?;
    overlay.agents[0].restart()?;
    wait_logged(&overlay, 0, GOES_ON)?;
    overlay.etcd.restart()?;
    wait_logged(&overlay, 0, "starting again with Backend.FlowCache from true to false")?;
    ensure_follows(&overlay)?;
    ensure_pods_talk(&overlay)?;
    Ok(())
}

#[test]
fn a_wiped_etcd_that_ends_right_after_empties_nothing() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let streams = overlay.streams()?;
    let peers = [overlay.peer(1)?, overlay.peer(0)?];
    // Paused, so that no agent writes its lease again before etcd ends.
    overlay.agents.iter().try_for_each(|agent| agent.signal(nix::sys::signal::Signal::SIGSTOP))?;
    overlay.etcd.kv().delete_prefix(PREFIX)?;
    overlay.agents.iter().try_for_each(|agent| agent.signal(nix::sys::signal::Signal::SIGCONT))?;
    // The other agent may see the lease of the first one again, together with its end.
    eventually("an agent misses the other's lease", SOON, || {
        let logs: String = overlay.agents.iter().map(Agent::log).collect();
        ensure!(logs.contains("1 of 1 leases vanished from the datastore together"), "{logs}");
        Ok(())
    })?;
    overlay.etcd.kill()?;
    throughout("pods reach each other", AWAY, || ensure_pods_talk(&overlay))?;
    for (node, peer) in overlay.nodes().iter().zip(&peers) {
        inspect::ensure_knows(node, std::slice::from_ref(peer))?;
    }
    streams.ensure_whole()?;
    Ok(())
}

#[test]
fn leases_that_vanish_together_are_held_and_then_let_go() -> TestResult {
    let hold = |agent: AgentBuilder| agent.arg("--lease-hold=3");
    let overlay = Overlay::start_with(Topology::segment(2), &["--dataplane=bpf"; 2], 1, hold)?;
    let streams = overlay.streams()?;
    let node = &overlay.nodes()[0];
    let fictional: Vec<Peer> = (90..95).map(Peer::fictional).collect();
    let all = [&[overlay.peer(1)?], &fictional[..]].concat();
    fictional.iter().try_for_each(|peer| overlay.etcd.put(&peer.key(), &peer.value()))?;
    eventually("all are known", SOON, || inspect::ensure_knows(node, &all))?;
    fictional.iter().try_for_each(|peer| overlay.etcd.delete(&peer.key()))?;
    wait_logged(&overlay, 0, "leases vanished from the datastore together")?;
    eventually("all are held", Duration::from_secs(1), || inspect::ensure_knows(node, &all))?;
    eventually("they are let go", SOON, || inspect::ensure_knows(node, &all[..1]))?;
    wait_logged(&overlay, 0, "are still missing; removing their nodes")?;
    streams.ensure_whole()?;
    Ok(())
}
