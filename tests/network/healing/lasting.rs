//! Damage that cannot be repaired for a while: the floor carries, the agent says so once and tries less and less often.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_agent::dataplane::bpf::pins::mount_bpffs;
use flannel_common::abi;
use flannel_tests::traffic::ping;
use flannel_tests::wait::throughout;
use flannel_tests::{Node, TestResult, Topology, eventually};
use nix::mount::umount;

use super::{SOON, UNCHECKED};
use crate::endpoint::{Figures, with_endpoint};
use crate::inspect::{self, DEVICE, UPLINK};
use crate::overlay::{NETWORK, Overlay, lines_of, with_xdp};

/// In this time there are tries after 1 and 3 s. Without pauses that grow there would be one a second.
const WINDOW: Duration = Duration::from_millis(4500);
const TRIES: f64 = 3.0;
/// Three times what an agent without optimisation needs for these tries.
const TICKS: u64 = 100;
const FAILED: &str = "the BPF programs cannot be attached again";
const LASTING: &str = r#"flannel_problems{kind="programs"}"#;
/// Packets take a slower way than was asked for.
const DEGRADED: &str = "flannel_dataplane_degraded";
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
    for name in [LASTING, DEGRADED, r#"flannel_dataplane{name="netlink"}"#] {
        assert!(figures.get(name)? > 0.0, "{}", figures.text());
    }
    assert!(!figures.text().contains("\nflannel_flows{"), "nobody counts flows: {}", figures.text());
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
        let figures = Figures::of(node)?;
        for name in [LASTING, DEGRADED] {
            ensure!(figures.get(name)? < 1.0, "{name} is not 0");
        }
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

/// Damages a node every second, as long as it lives.
struct Rival {
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Rival {
    fn start(node: &Node, command: String) -> Self {
        let (stopped, netns) = (Arc::new(AtomicBool::new(false)), Arc::clone(node.netns()));
        let running = Arc::clone(&stopped);
        let thread = thread::spawn(move || {
            while !running.load(Relaxed) {
                // Between two tries of the agent there may be nothing to damage.
                _ = netns.exec(&command);
                thread::sleep(Duration::from_secs(1));
            }
        });
        Self { stopped, thread: Some(thread) }
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        self.stopped.store(true, Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

#[test]
fn programs_that_others_detach_again_and_again_are_left_to_the_floor_at_growing_intervals() -> TestResult {
    const CONTESTED: &str = "the BPF programs do not stay attached";
    const DETACHED: &str = "the BPF programs were detached by another program";
    let flags = ["--dataplane=auto", "--dataplane=bpf"];
    let overlay = Overlay::start_in(UNCHECKED, Topology::segment(2), &flags, 1, with_endpoint)?;
    let (node, agent) = (&overlay.nodes()[0], &overlay.agents[0]);
    let (one, other) = overlay.two_pods();
    let said = |text: &str| agent.log().lines().filter(|line| line.contains(text)).count();
    let link = inspect::pins(node)?.path("underlay_ingress_link");
    let detach = format!("bpftool link detach pinned {}", link.display());
    let rival = Rival::start(node, detach.clone());
    eventually("it is said", 2 * SOON, || {
        ensure!(said(CONTESTED) == 1 && Figures::of(node)?.get(LASTING)? > 0.0, "{}", agent.log());
        Ok(())
    })?;
    assert_eq!(said(DETACHED), 4, "{}", agent.log());
    // The next tries are after 1, 2, 4 and 8 s, and each is noticed to be in vain a second later.
    let tries = || Figures::of(node)?.get(r#"flannel_errors_total{kind="programs"}"#);
    let first = tries()?;
    throughout("the floor carries, and nothing more is said", 2 * WINDOW, || {
        ping(one, other.ip())?;
        ensure!(said(CONTESTED) == 1 && said(DETACHED) == 4, "{}", agent.log());
        Ok(())
    })?;
    let tries = tries()? - first;
    assert!((1.0..=TRIES).contains(&tries), "{tries} tries in {:?}", 2 * WINDOW);
    drop(rival);
    eventually("the programs are back and stay", 4 * SOON, || {
        ensure!(said(SOLVED) == 1 && Figures::of(node)?.get(LASTING)? < 1.0, "{}", agent.log());
        Ok(())
    })?;
    let carried = inspect::carried(node)?;
    ping(one, other.ip()).and(ping(other, one.ip()))?;
    let now = inspect::carried(node)?;
    assert!(now.0 > carried.0 && now.1 > carried.1, "{carried:?}, {now:?}");
    // A single accident is healed at once again.
    node.exec(&detach)?;
    eventually("it is healed", SOON, || {
        ensure!(said(DETACHED) == 5, "{}", agent.log());
        ensure!(programs(node)?.len() == 3, "{:?}", programs(node)?);
        Ok(())
    })?;
    // With the device, its programs are removed.
    let _rival = Rival::start(node, format!("ip link del {DEVICE}"));
    eventually("it is said", 2 * SOON, || {
        ensure!(said(CONTESTED) == 2 && Figures::of(node)?.get(LASTING)? > 0.0, "{}", agent.log());
        Ok(())
    })?;
    assert_eq!(lines_of(&agent.log(), "ERROR").len(), 2, "{}", agent.log());
    Ok(())
}
