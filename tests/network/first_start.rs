//! The first start of an agent on a node that has pods already.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::{AgentBuilder, TestResult, Topology, eventually};

use crate::inspect;
use crate::overlay::Overlay;

const PODS: usize = 3;
/// Time limit for pods to take the shortcut.
const SOON: Duration = Duration::from_secs(15);

/// The line that says that a port has its programs.
const ATTACHED: &str = "pod port takes the shortcut";

#[test]
fn ready_does_not_wait_for_the_ports_of_pods() -> TestResult {
    let logging = |agent: AgentBuilder| agent.arg("-v=2");
    let mut overlay = Overlay::start_with(Topology::segment(2), &["--dataplane=auto"; 2], PODS, logging)?;
    overlay.agents[0].clean_up()?;
    let before = overlay.agents[0].log().len();
    overlay.agents[0].restart()?;
    let log = eventually("all ports have their programs", SOON, || {
        let log = overlay.agents[0].log().split_off(before);
        let attached = log.matches(ATTACHED).count();
        ensure!(attached == PODS, "{attached} have");
        Ok(log)
    })?;
    let ready = log.find("reported as ready").context("it does not say that it is ready")?;
    let first = log.find(ATTACHED).context("no port has programs")?;
    assert!(ready < first, "it is ready after a port has its programs:\n{log}");

    overlay.wait_joined()?;
    let _streams = overlay.streams()?;
    let node = &overlay.nodes()[0];
    let skipped = || inspect::packets(node, Hook::PodEgress, Outcome::Encapsulated);
    let count = skipped()?;
    eventually("packets of a pod take the shortcut", SOON, || {
        ensure!(skipped()? > count);
        Ok(())
    })?;
    Ok(())
}
