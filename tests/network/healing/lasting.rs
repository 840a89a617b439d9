//! Damage that cannot be repaired for a while: the floor carries, the agent says so once and tries less and less often.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_agent::dataplane::bpf::pins::mount_bpffs;
use flannel_common::abi;
use flannel_tests::traffic::ping;
use flannel_tests::wait::throughout;
use flannel_tests::{Node, TestResult, Topology, eventually};
use nix::mount::umount;

use super::SOON;
use crate::endpoint::{Figures, with_endpoint};
use crate::inspect::{self, DEVICE, UPLINK};
use crate::overlay::{NETWORK, Overlay, lines_of, with_xdp};

/// In this time there are tries after 1 and 3 s. Without pauses that grow there would be one a second.
const WINDOW: Duration = Duration::from_millis(4500);
const TRIES: f64 = 3.0;
/// Three times what an agent without optimisation needs for these tries.
const TICKS: u64 = 100;
const FAILED: &str = "the BPF programs cannot be attached again";
const SOLVED: &str = "the BPF programs are attached again";

fn programs(node: &Node) -> Result<Vec<String>> {
    let programs = [UPLINK, DEVICE].map(|interface| inspect::programs(node, interface));
    Ok(programs.into_iter().collect::<Result<Vec<_>>>()?.concat())
}

/// Returns the CPU time of the process, in ticks of 10 ms.
fn ticks(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<_> = stat.rsplit(')').next().context("no name")?.split_whitespace().collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

/// Damages the first node, and repairs it.
fn lasts(
    overlay: &Overlay,
    damage: impl FnOnce() -> Result<()>,
    repair: impl FnOnce() -> Result<()>,
) -> TestResult {
    let (node, agent) = (&overlay.nodes()[0], &overlay.agents[0]);
    let (one, other) = overlay.two_pods();
    let said = |text: &str| agent.log().lines().filter(|line| line.contains(text)).count();
    let (failed, solved) = (said(FAILED), said(SOLVED));
    let before = programs(node)?;
    damage()?;
    eventually("it is said", SOON, || {
        ensure!(said(FAILED) == failed + 1, "{}", agent.log());
        ensure!(programs(node)?.is_empty(), "{:?}", programs(node)?);
        ensure!(!node.exec("ip link show dev eth0")?.contains("prog/xdp"), "XDP is still attached");
        Ok(())
    })?;
    eventually("the floor carries", SOON, || ping(one, other.ip()).and(ping(other, one.ip())))?;
    let figures = Figures::of(node)?;
    let lasting = r#"flannel_problems{kind="programs"}"#;
    for name in [lasting, r#"flannel_dataplane{name="netlink"}"#] {
        assert!(figures.get(name)? > 0.0, "{}", figures.text());
    }
    let tries = || Figures::of(node)?.get(r#"flannel_errors_total{kind="programs"}"#);
    let (first, used) = (tries()?, ticks(agent.pid())?);
    throughout("the floor carries, and nothing more is said", WINDOW, || {
        ping(one, other.ip())?;
        ensure!(said(FAILED) == failed + 1, "{}", agent.log());
        Ok(())
    })?;
    let (tries, used) = (tries()? - first, ticks(agent.pid())? - used);
    assert!(tries <= TRIES && used < TICKS, "{tries} tries and {used} ticks in {WINDOW:?}");
    repair()?;
    // The longest pause that the tries may have reached by now is 16 s.
    eventually("the programs are back", 3 * SOON, || {
        ensure!(said(SOLVED) == solved + 1, "{}", agent.log());
        ensure!(programs(node)?.len() == before.len(), "{:?}", programs(node)?);
        ensure!(Figures::of(node)?.get(lasting)? < 1.0, "{lasting} is not 0");
        Ok(())
    })?;
    let carried = inspect::carried(node)?;
    eventually("BPF carries again", SOON, || {
        ping(one, other.ip()).and(ping(other, one.ip()))?;
        let now = inspect::carried(node)?;
        ensure!(now.0 > carried.0 && now.1 > carried.1, "{carried:?}, {now:?}");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn what_cannot_be_healed_is_said_once_and_tried_again_at_growing_intervals() -> TestResult {
    let network = with_xdp(NETWORK, "generic");
    let overlay = Overlay::start_in(
        &network,
        Topology::segment(2),
        &["--dataplane=auto", "--dataplane=bpf"],
        1,
        with_endpoint,
    )?;
    let node = &overlay.nodes()[0];
    let bpffs = node.bpffs()?;
    // `underlay_ingress` cannot be attached again, and XDP goes on stripping what only it can deliver.
    let pins = inspect::pins(node)?;
    let (link, noticed) = (pins.path("underlay_ingress_link"), pins.path("overlay_ingress_link"));
    lasts(
        &overlay,
        || {
            fs::remove_file(&link)?;
            fs::create_dir(&link)?;
            Ok(fs::remove_file(&noticed)?)
        },
        || Ok(fs::remove_dir(&link)?),
    )?;
    // The BPF filesystem is gone, and something else is in its place.
    lasts(
        &overlay,
        || {
            umount(bpffs)?;
            fs::remove_dir(bpffs)?;
            Ok(fs::write(bpffs, "")?)
        },
        || {
            fs::remove_file(bpffs)?;
            mount_bpffs(bpffs)
        },
    )?;
    assert!(Path::new(bpffs).join(abi::PIN_DIR).is_dir());
    let errors = lines_of(&overlay.agents[0].log(), "ERROR");
    assert!(errors.len() == 2 && errors.iter().all(|line| line.contains(FAILED)), "{errors:#?}");
    Ok(())
}
