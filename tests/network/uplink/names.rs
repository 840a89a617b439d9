//! The uplink's name changes.

use std::time::Duration;

use anyhow::ensure;
use flannel_tests::traffic::ping;
use flannel_tests::{TestResult, Topology, eventually};

use crate::inspect;
use crate::overlay::{Overlay, lines_of};

const FOLLOW: Duration = Duration::from_secs(5);
const RENAMED: &str = "uplink0";
/// What the agent logs once it has attached its programs.
const ATTACHED: &str = "BPF programs attached";

#[test]
fn a_renamed_uplink_stays_the_uplink_and_is_repaired() -> TestResult {
    let overlay = Overlay::start_with(Topology::segment(2), &["--dataplane=bpf"; 2], 1, |agent| {
        agent.arg("--iface=eth0")
    })?;
    let netns = overlay.nodes()[0].netns();
    let streams = overlay.streams()?;
    netns.ip(&[format!("link set eth0 name {RENAMED}")])?;
    eventually("the agent goes on with the new name", FOLLOW, || {
        let log = overlay.agents[0].log();
        ensure!(log.contains("the uplink is uplink0 (192.168.64.1)"), "{log}");
        ensure!(log.matches(ATTACHED).count() == 2, "not attached by its new name: {log}");
        Ok(())
    })?;
    overlay.wait_joined()?;
    streams.ensure_whole()?;
    let link = inspect::pins(&overlay.nodes()[0])?.path("underlay_ingress_link");
    netns.exec(&format!("bpftool link detach pinned {}", link.display()))?;
    eventually("the program is attached again", FOLLOW, || {
        let programs = inspect::programs(&overlay.nodes()[0], RENAMED)?;
        ensure!(programs.len() == 1, "{programs:?}");
        ensure!(overlay.agents[0].log().matches(ATTACHED).count() == 3, "not at the start and twice after");
        let (one, other) = overlay.two_pods();
        ping(one, other.ip()).map(drop)
    })?;
    assert_eq!(lines_of(&overlay.agents[0].log(), "ERROR"), [""; 0]);
    Ok(())
}
