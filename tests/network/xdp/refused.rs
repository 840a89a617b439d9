//! Where XDP cannot be had.

use anyhow::{Context as _, Result, ensure};
use aya::Ebpf;
use aya::programs::{Xdp, XdpMode};
use flannel_agent::dataplane::bpf::OBJECT;
use flannel_tests::TestResult;
use flannel_tests::traffic::ping;

use super::{LINK, overlay_with, restart_with};
use crate::inspect::{self, UPLINK};
use crate::overlay::{Overlay, lines_of};

/// Restarts the first agent on a node where XDP cannot be attached; gives its one warning.
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
fn what_the_driver_refuses_is_said_and_tc_carries_on() -> TestResult {
    let mut overlay = overlay_with(&["--xdp=off"])?;
    // More than veth's native XDP can take, which is less than a page.
    overlay.cluster.fabric().context("a segment has a switch")?.ip(&["link set n0 mtu 9000"])?;
    let said = refused(&mut overlay)?;
    for words in ["--xdp native", UPLINK, "driver veth", "os error 34"] {
        assert!(said.contains(words), "no {words} in {said}");
    }
    Ok(())
}

#[test]
fn a_program_of_others_stays() -> TestResult {
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
        std::fs::write(overlay.nodes()[0].dir().join("agent.log"), "")?;
    }
    Ok(())
}
