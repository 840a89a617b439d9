//! Restarts of the agent without loss of traffic.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use flannel_common::abi;
use flannel_common::outcome::Hook;
use flannel_tests::traffic::ping;
use flannel_tests::wait::{scaled, throughout};
use flannel_tests::{Agent, AgentBuilder, Node, SubnetEnv, TestResult, Topology, eventually};

use crate::inspect::{self, DEVICE, Link, UPLINK};
use crate::overlay::{Overlay, lines_of};

/// Time for which the node has no agent while traffic flows.
const AWAY: Duration = Duration::from_millis(300);
/// Time limit for an agent to end. flanneld needs 10 ms.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Time limit for a restarted agent to be at work.
const SOON: Duration = Duration::from_secs(15);

/// State that a restart must not change.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    device: Link,
    subnet: SubnetEnv,
    maps: Vec<u64>,
    lease: Vec<(String, String)>,
}

fn identity(overlay: &Overlay) -> Result<Identity> {
    let node = &overlay.nodes()[0];
    let maps = abi::PINNED_MAPS.iter().map(|name| inspect::map_id(node, name)).collect::<Result<_>>()?;
    let leases = overlay.etcd.subnets()?.into_iter().map(|entry| (entry.key, entry.value)).collect();
    Ok(Identity { device: inspect::link(node, DEVICE)?, subnet: node.subnet_env()?, maps, lease: leases })
}

/// Ends the first node's agent by `end`, and starts it again after a moment, all under traffic.
fn survives(end: impl Fn(&mut Agent) -> Result<()>) -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    // Three for the node and two for its pod.
    let (before, programs) = (identity(&overlay)?, inspect::attached_all(&overlay.nodes()[0], 5)?);
    let streams = overlay.streams()?;
    end(&mut overlay.agents[0])?;
    throughout("the node does not change", AWAY, || {
        anyhow::ensure!(identity(&overlay)? == before, "it changed: {:?}", identity(&overlay)?);
        Ok(())
    })?;
    let counted = inspect::carried(&overlay.nodes()[0])?;
    overlay.agents[0].restart()?;
    overlay.wait_joined()?;
    streams.ensure_whole()?;
    assert_eq!(identity(&overlay)?, before);
    inspect::wait_replaced(&overlay.nodes()[0], &programs)?;
    let now = inspect::carried(&overlay.nodes()[0])?;
    assert!(now.0 > counted.0 && now.1 > counted.1, "the counters went from {counted:?} to {now:?}");
    Ok(())
}

#[test]
fn traffic_survives_a_restart_after_sigterm() -> TestResult {
    survives(|agent| {
        let start = Instant::now();
        let status = agent.term()?;
        anyhow::ensure!(status.success(), "SIGTERM: {status}");
        anyhow::ensure!(start.elapsed() < scaled(AT_ONCE), "SIGTERM took {:?}", start.elapsed());
        Ok(())
    })
}

#[test]
fn traffic_survives_a_restart_after_sigkill() -> TestResult {
    survives(Agent::kill)
}

#[test]
fn traffic_goes_on_without_any_agent() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let streams = overlay.streams()?;
    for agent in &mut overlay.agents {
        agent.term()?;
    }
    let (one, other) = overlay.two_pods();
    throughout("pods reach each other", AWAY, || ping(one, other.ip()).map(drop))?;
    streams.ensure_whole()?;
    Ok(())
}

fn restart_as(overlay: &mut Overlay, mode: &str) -> Result<()> {
    overlay.agents[0].term()?;
    overlay.agents[0].restart_with(|args| {
        args.retain(|arg| !arg.starts_with("--dataplane="));
        args.push(format!("--dataplane={mode}"));
    })?;
    overlay.wait_joined()
}

fn attached_programs(node: &Node) -> Result<Vec<String>> {
    let mut names = inspect::programs(node, UPLINK)?;
    names.extend(inspect::programs(node, DEVICE)?);
    Ok(names)
}

#[test]
fn the_dataplane_can_be_changed_under_traffic() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    // The kernel keeps the first 15 bytes of a name.
    let all = [Hook::UnderlayIngress, Hook::OverlayIngress, Hook::OverlayEgress]
        .map(|hook| &hook.program()[..hook.program().len().min(15)]);
    assert_eq!(attached_programs(&overlay.nodes()[0])?, all);
    let streams = overlay.streams()?;
    restart_as(&mut overlay, "netlink")?;
    assert_eq!(attached_programs(&overlay.nodes()[0])?, [""; 0], "programs after --dataplane=netlink");
    assert!(!inspect::pins(&overlay.nodes()[0])?.path("").exists(), "pins after --dataplane=netlink");
    let (_, sent) = overlay.nodes()[0].counters(DEVICE)?;
    restart_as(&mut overlay, "bpf")?;
    assert_eq!(attached_programs(&overlay.nodes()[0])?, all);
    streams.ensure_whole()?;
    assert!(
        overlay.nodes()[0].counters(DEVICE)?.1.packets > sent.packets,
        "the kernel's device has carried nothing"
    );
    assert!(inspect::carried(&overlay.nodes()[0])?.0 > 0, "BPF carries nothing afterwards");
    assert_eq!(lines_of(&overlay.agents[0].log(), "ERROR"), [""; 0]);
    Ok(())
}

/// Lists the programs on the first node's uplink, vxlan device and pod's port, and XDP's on the uplink.
fn on_hooks(overlay: &Overlay) -> Result<(Vec<String>, Option<u64>)> {
    let node = &overlay.nodes()[0];
    let port = overlay.pods[0][0].port();
    let names = [UPLINK, DEVICE, port].map(|interface| inspect::programs(node, interface));
    let names = names.into_iter().collect::<Result<Vec<_>>>()?.concat();
    Ok((names, inspect::xdp(node, UPLINK)?.map(|(_, program)| program)))
}

/// Hides the first agent's pins, as a BPF filesystem does that is mounted over the first, and starts it again. Of two sets of programs
/// each would drop what the other has checked.
fn survives_hidden_pins(change: impl Fn(AgentBuilder) -> AgentBuilder) -> TestResult {
    let mut overlay = Overlay::start_with(Topology::segment(2), &["--dataplane=bpf"; 2], 1, change)?;
    let (before, first_xdp) = on_hooks(&overlay)?;
    let elsewhere = overlay.nodes()[0].bpffs()?.join("elsewhere");
    std::fs::create_dir(&elsewhere)?;
    let streams = overlay.streams()?;
    overlay.agents[0].restart_with(|args| {
        args.retain(|arg| !arg.starts_with("--bpffs="));
        args.push(format!("--bpffs={}", elsewhere.display()));
    })?;
    eventually("there is one set of programs", SOON, || {
        let (now, xdp) = on_hooks(&overlay)?;
        ensure!(now == before, "{now:?}, not {before:?}");
        ensure!(xdp.is_some() == first_xdp.is_some() && (xdp.is_none() || xdp != first_xdp), "XDP: {xdp:?}");
        Ok(())
    })?;
    let received = overlay.nodes()[0].counters(UPLINK)?.0.packets;
    eventually("traffic goes on", SOON, || {
        ensure!(overlay.nodes()[0].counters(UPLINK)?.0.packets > received + 100);
        Ok(())
    })?;
    streams.ensure_whole()?;
    assert_eq!(lines_of(&overlay.agents[0].log(), "ERROR"), [""; 0]);
    Ok(())
}

#[test]
fn programs_whose_pins_are_out_of_sight_are_replaced() -> TestResult {
    survives_hidden_pins(|agent| agent.arg("--xdp=native"))
}

#[test]
fn filters_whose_maps_are_out_of_sight_are_replaced() -> TestResult {
    survives_hidden_pins(AgentBuilder::without_tcx)
}
