//! XDP is attached, changed, moved and removed under traffic.

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData};
use flannel_common::abi;
use flannel_common::node::NodeConfig;
use flannel_tests::agent::subcommand;
use flannel_tests::traffic::ping;
use flannel_tests::{Agent, Cluster, TestResult, Topology, eventually};

use super::{LINK, NATIVE, SOON, ensure_packets_are_stripped, handed_over, mode, overlay_with, restart_with};
use crate::inspect::{self, UPLINK};
use crate::overlay::{Overlay, lines_of};

#[test]
fn xdp_can_be_switched_under_traffic() -> TestResult {
    let mut overlay = overlay_with(&["--xdp=off"])?;
    let streams = overlay.streams()?;
    for (requested, expected) in [
        ("native", Some("native")),
        ("off", None),
        ("generic", Some("generic")),
        ("native", Some("native")),
        ("generic", Some("generic")),
        ("auto", None),
    ] {
        restart_with(&mut overlay, requested)?;
        let node = &overlay.nodes()[0];
        assert_eq!(mode(node)?, expected, "--xdp={requested}");
        assert_eq!(inspect::attached(node)?.contains_key(LINK), expected.is_some(), "--xdp={requested}");
        let received = inspect::carried(node)?.1;
        eventually("traffic goes on", SOON, || {
            ensure!(inspect::carried(node)?.1 > received + 50, "--xdp={requested}");
            Ok(())
        })?;
    }
    streams.ensure_whole()?;
    for level in ["ERROR", "WARN"] {
        assert_eq!(lines_of(&overlay.agents[0].log(), level), [""; 0]);
    }
    Ok(())
}

#[test]
fn xdp_stays_without_the_agent_and_is_replaced_without_loss() -> TestResult {
    let mut overlay = overlay_with(&[NATIVE])?;
    // Three for the node, two for its pod, and XDP's.
    let before = inspect::attached_all(&overlay.nodes()[0], 6)?;
    let streams = overlay.streams()?;
    overlay.agents[0].kill()?;
    let stripped = handed_over(&overlay.nodes()[0])?;
    eventually("traffic goes on", SOON, || {
        ensure!(handed_over(&overlay.nodes()[0])? > stripped + 50, "not yet");
        Ok(())
    })?;
    overlay.agents[0].restart()?;
    overlay.wait_joined()?;
    inspect::wait_replaced(&overlay.nodes()[0], &before)?;
    streams.ensure_whole()?;
    let after = inspect::attached(&overlay.nodes()[0])?;
    assert_eq!(inspect::xdp(&overlay.nodes()[0], UPLINK)?, Some(("native", after[LINK].program)));
    Ok(())
}

#[test]
fn xdp_is_removed_with_the_other_programs() -> TestResult {
    let mut overlay = overlay_with(&[NATIVE])?;
    let streams = overlay.streams()?;
    overlay.agents[0].restart_with(|args| {
        args.retain(|arg| !arg.starts_with("--dataplane=") && arg != NATIVE);
        args.push("--dataplane=netlink".to_owned());
    })?;
    assert_eq!(mode(&overlay.nodes()[0])?, None);
    assert!(!inspect::pins(&overlay.nodes()[0])?.path("").exists(), "pins after --dataplane=netlink");
    streams.ensure_whole()?;
    Ok(())
}

#[test]
fn cleanup_removes_xdp() -> TestResult {
    let mut overlay = overlay_with(&[NATIVE])?;
    overlay.agents[0].term()?;
    let node = &overlay.nodes()[0];
    assert_eq!(mode(node)?, Some("native"), "after the agent has ended");
    let output = subcommand(node, "cleanup")?.output()?;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(mode(node)?, None);
    Ok(())
}

/// Waits until XDP is attached to the first node's uplink again, by another link than `before`. Returns the new link.
fn wait_renewed(overlay: &Overlay, before: u64) -> Result<u64> {
    let node = &overlay.nodes()[0];
    eventually("XDP is back", SOON, || {
        ensure!(mode(node)? == Some("native"), "not yet");
        let link = inspect::attached(node)?.get(LINK).context("no pin")?.link;
        ensure!(link != before, "the old link is still pinned");
        Ok(())
    })?;
    Ok(inspect::attached(node)?[LINK].link)
}

#[test]
fn a_detached_xdp_program_is_attached_again() -> TestResult {
    let mut overlay = overlay_with(&[NATIVE])?;
    let streams = overlay.streams()?;
    let pin = inspect::pins(&overlay.nodes()[0])?.path(LINK);
    let mut link = inspect::attached(&overlay.nodes()[0])?[LINK].link;
    for (damage, times) in
        [format!("bpftool link detach pinned {}", pin.display()), format!("rm {}", pin.display())]
            .iter()
            .zip(1..)
    {
        overlay.nodes()[0].netns().exec(damage)?;
        link = wait_renewed(&overlay, link)?;
        let told = lines_of(&overlay.agents[0].log(), "WARN");
        assert!(
            told.len() == times && told.iter().all(|line| line.contains("programs were detached")),
            "{told:?}"
        );
    }
    // Without the agent, it is not attached again.
    overlay.agents[0].kill()?;
    overlay.nodes()[0].netns().exec(&format!("bpftool link detach pinned {}", pin.display()))?;
    assert_eq!(mode(&overlay.nodes()[0])?, None);
    overlay.agents[0].restart()?;
    wait_renewed(&overlay, link)?;
    streams.ensure_whole()?;
    Ok(())
}

#[test]
fn xdp_stays_when_programs_of_tc_are_attached_again() -> TestResult {
    let overlay = overlay_with(&[NATIVE])?;
    let node = &overlay.nodes()[0];
    let link = inspect::attached(node)?[LINK].link;
    let pin = inspect::pins(node)?.path("underlay_ingress_link");
    node.netns().exec(&format!("bpftool link detach pinned {}", pin.display()))?;
    ensure_packets_are_stripped(&overlay)?;
    assert_eq!(inspect::attached(node)?[LINK].link, link);
    Ok(())
}

#[test]
fn xdp_follows_the_uplink() -> TestResult {
    let overlay = overlay_with(&[NATIVE])?;
    let node = &overlay.nodes()[0];
    let fabric = overlay.cluster.fabric().context("a segment has a switch")?;
    fabric.ip(&[
        format!("link add more0 type veth peer name eth1 netns {}", node.netns().name()),
        "link set more0 master seg0 up".to_owned(),
    ])?;
    node.netns().ip(&[
        "link set eth1 up",
        "addr flush dev eth0",
        "addr add 192.168.64.101/24 dev eth1",
        "route replace default via 192.168.64.254",
    ])?;
    eventually("XDP is on the new uplink alone", SOON, || {
        let modes = [UPLINK, "eth1"].map(|interface| inspect::xdp(node, interface));
        let [None, Some(("native", _))] = modes.map(Result::ok).map(Option::flatten) else {
            anyhow::bail!("not yet");
        };
        Ok(())
    })?;
    ensure_packets_are_stripped(&overlay)?;
    Ok(())
}

#[test]
fn xdp_follows_a_new_mac() -> TestResult {
    let overlay = overlay_with(&[NATIVE])?;
    let node = &overlay.nodes()[0];
    node.netns().ip(&["link set eth0 address 02:00:00:00:77:01"])?;
    let (one, other) = overlay.two_pods();
    eventually("packets are stripped", SOON, || {
        let before = handed_over(node)?;
        ping(one, other.ip())?;
        ensure!(handed_over(node)? == before + 1, "not yet");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn xdp_of_another_layout_is_detached_before_its_maps_are_replaced() -> TestResult {
    let mut overlay = overlay_with(&[NATIVE])?;
    let node = &overlay.nodes()[0];
    let before = inspect::attached(node)?[LINK].link;
    let streams = overlay.streams()?;
    overlay.agents[0].kill()?;
    let path = inspect::pins(&overlay.nodes()[0])?.path(abi::CONFIG);
    let mut config = Array::<_, NodeConfig>::try_from(Map::from_map_data(MapData::from_pin(path)?)?)?;
    let facts = config.get(&0, 0)?;
    config.set(0, NodeConfig { layout: abi::LAYOUT - 1, ..facts }, 0)?;
    overlay.agents[0].restart()?;
    overlay.wait_joined()?;
    let node = &overlay.nodes()[0];
    assert_ne!(inspect::attached(node)?[LINK].link, before);
    eventually("packets are stripped again", SOON, || {
        let stripped = handed_over(node)?;
        ensure!(stripped > 50, "{stripped} so far");
        Ok(())
    })?;
    streams.ensure_whole()?;
    Ok(())
}

#[test]
fn the_network_configuration_can_ask_for_xdp() -> TestResult {
    let cluster = Cluster::build(Topology::segment(1))?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","XDP":"native"}}"#)?;
    let node = &cluster.nodes()[0];
    let mut agent = Agent::builder(node).etcd(&etcd).arg("--dataplane=bpf").start()?;
    agent.wait_ready()?;
    assert_eq!(mode(node)?, Some("native"));
    agent.restart_with(|args| args.push("--xdp=off".to_owned()))?;
    assert_eq!(mode(node)?, None);
    Ok(())
}
