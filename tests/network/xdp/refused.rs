//! XDP where it cannot be attached, and metadata that is not believed.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use aya::maps::{Array, Map, MapData};
use aya::programs::{Xdp, XdpMode};
use flannel_agent::dataplane::bpf::OBJECT;
use flannel_common::abi;
use flannel_common::node::NodeConfig;
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::traffic::ping;
use flannel_tests::wait::throughout;
use flannel_tests::{Node, TestResult, eventually};
use nix::sys::signal::Signal;

use super::super::forged;
use super::{LINK, NATIVE, SOON, overlay_with, restart_with};
use crate::inspect::{self, UPLINK};
use crate::overlay::{Overlay, lines_of};

/// Longer than the interval in which the agent checks its hooks.
const WHILE: Duration = Duration::from_millis(2500);

/// Restarts the first agent on a node where XDP cannot be attached, and returns its only warning.
fn refused(overlay: &mut Overlay) -> Result<String> {
    restart_with(overlay, "native")?;
    assert!(!inspect::attached(&overlay.nodes()[0])?.contains_key(LINK));
    let mut warnings = lines_of(&overlay.agents[0].log(), "WARN");
    ensure!(warnings.len() == 1, "{warnings:?}");
    let (one, other) = overlay.two_pods();
    ping(one, other.ip())?;
    Ok(warnings.remove(0))
}

#[test]
fn a_refusal_by_the_driver_is_logged_and_tc_carries_on() -> TestResult {
    let mut overlay = overlay_with(&["--xdp=off"])?;
    // More than veth's native XDP accepts, which is less than a page.
    overlay.cluster.fabric().context("a segment has a switch")?.ip(&["link set n0 mtu 9000"])?;
    let said = refused(&mut overlay)?;
    for words in ["--xdp native", UPLINK, "driver veth", "os error 34"] {
        assert!(said.contains(words), "no {words} in {said}");
    }
    Ok(())
}

/// Waits until the uplink has no XDP program. A link ends some time after its last pin or file descriptor.
fn wait_off(node: &Node) -> Result<()> {
    eventually("XDP is off", SOON, || {
        ensure!(inspect::xdp(node, UPLINK)?.is_none(), "not yet");
        Ok(())
    })
}

#[test]
fn a_foreign_program_is_not_replaced() -> TestResult {
    let mut overlay = overlay_with(&["--xdp=off"])?;
    let mut ebpf = Ebpf::load(OBJECT)?;
    let foreign: &mut Xdp = ebpf.program_mut("underlay_xdp").context("a program")?.try_into()?;
    foreign.load()?;
    for mode in [XdpMode::Skb, XdpMode::Driver] {
        let link = overlay.nodes()[0].netns().run(|| Ok(foreign.attach(UPLINK, mode)?))?;
        let there = inspect::xdp(&overlay.nodes()[0], UPLINK)?;
        let said = refused(&mut overlay)?;
        assert!(said.contains("driver veth") && said.contains("os error"), "{said}");
        restart_with(&mut overlay, "auto")?;
        assert_eq!(inspect::xdp(&overlay.nodes()[0], UPLINK)?, there);
        foreign.detach(link)?;
        wait_off(&overlay.nodes()[0])?;
        std::fs::write(overlay.nodes()[0].dir().join("agent.log"), "")?;
    }
    Ok(())
}

/// Another program that has replaced the agent's XDP program stays, and TC carries on.
#[test]
fn a_foreign_program_that_replaced_the_agents_is_not_replaced() -> TestResult {
    let overlay = overlay_with(&[NATIVE])?;
    let node = &overlay.nodes()[0];
    let mut ebpf = Ebpf::load(OBJECT)?;
    let foreign: &mut Xdp = ebpf.program_mut("underlay_xdp").context("a program")?.try_into()?;
    foreign.load()?;
    overlay.agents[0].signal(Signal::SIGSTOP)?;
    std::fs::remove_file(inspect::pins(node)?.path(LINK))?;
    wait_off(node)?;
    node.netns().run(|| Ok(foreign.attach(UPLINK, XdpMode::Driver)?))?;
    let there = inspect::xdp(node, UPLINK)?;
    overlay.agents[0].signal(Signal::SIGCONT)?;
    eventually("the agent logs it", SOON, || {
        let warnings = lines_of(&overlay.agents[0].log(), "WARN");
        ensure!(warnings.iter().any(|line| line.contains("--xdp native is not possible")), "{warnings:?}");
        Ok(())
    })?;
    throughout("it stays", WHILE, || {
        ensure!(inspect::xdp(node, UPLINK)? == there, "another program");
        Ok(())
    })?;
    assert!(!inspect::attached(node)?.contains_key(LINK));
    let (one, other) = overlay.two_pods();
    ping(one, other.ip())?;
    Ok(())
}

/// Attaches a second `underlay_xdp` to a node's uplink, with the node's configuration. `key` changes the node's key.
fn strip_by_hand(node: &Node, key: u8) -> Result<Ebpf> {
    let pinned = MapData::from_pin(inspect::pins(node)?.path(abi::CONFIG))?;
    let mut facts = Array::<_, NodeConfig>::try_from(Map::from_map_data(pinned)?)?.get(&0, 0)?;
    facts.handover_key[0] ^= key;
    let mut ebpf = Ebpf::load(OBJECT)?;
    Array::<_, NodeConfig>::try_from(ebpf.map_mut(abi::CONFIG).context("a map")?)?.set(0, facts, 0)?;
    let program: &mut Xdp = ebpf.program_mut("underlay_xdp").context("a program")?.try_into()?;
    program.load()?;
    node.netns().run(|| Ok(program.attach(UPLINK, XdpMode::Driver)?))?;
    Ok(ebpf)
}

#[test]
fn metadata_of_a_packet_is_believed_only_with_the_nodes_key() -> TestResult {
    // With XDP, since the programs are loaded without what reads metadata otherwise. The agent must not attach its own again.
    let mut overlay = overlay_with(&["--xdp=native"])?;
    overlay.agents[0].kill()?;
    let (node, sender) = (&overlay.nodes()[0], overlay.nodes()[1].ip());
    let link = inspect::pins(node)?.path("underlay_xdp_link");
    node.netns().exec(&format!("bpftool link detach pinned {}", link.display()))?;
    let (socket, peer) = (forged::listen(&overlay)?, forged::ipv4_of(&overlay, 1)?);
    let lost = || inspect::packets(node, Hook::UnderlayIngress, Outcome::HandoverLost);
    let without_key = strip_by_hand(node, 1)?;
    let before = lost()?;
    forged::send(&overlay, sender, peer, b"without the key")?;
    // The host drops it, because its destination is not the uplink's MAC.
    eventually("the packet has arrived", SOON, || {
        ensure!(lost()? > before, "not yet");
        Ok(())
    })?;
    drop(without_key);
    let _with_key = strip_by_hand(node, 0)?;
    forged::send(&overlay, sender, peer, b"with the key")?;
    assert_eq!(forged::receive(&socket)?, b"with the key");
    Ok(())
}
