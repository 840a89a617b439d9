//! A second agent for the same network of a node: it waits for the first to end, and otherwise leaves all as it is.

use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_tests::traffic::ping;
use flannel_tests::{Agent, AgentBuilder, TestResult, Topology, eventually};

use crate::endpoint::with_endpoint;
use crate::inspect::{self, DEVICE, UPLINK};
use crate::overlay::{Overlay, lines_of};

/// Time limit for the second agent to say that it waits. It waits for 5 s.
const WAITING: Duration = Duration::from_secs(5);
/// Time limit for it to give up.
const REFUSING: Duration = Duration::from_secs(15);
const TAKEOVER: Duration = Duration::from_secs(10);

/// Starts a second agent on the first node. Its health endpoint is another one.
fn second(overlay: &Overlay, name: &str, change: impl FnOnce(AgentBuilder) -> AgentBuilder) -> Result<Agent> {
    let agent = Agent::builder(&overlay.nodes()[0]).etcd(&overlay.etcd).for_network(name);
    change(agent).arg("--dataplane=bpf").start()
}

#[test]
fn a_second_agent_waits_for_the_first_to_end_and_leaves_a_running_one_alone() -> TestResult {
    let mut overlay = Overlay::start_with(Topology::segment(2), &["--dataplane=bpf"; 2], 1, with_endpoint)?;
    let node = &overlay.nodes()[0];
    let programs =
        || Ok::<_, anyhow::Error>([inspect::programs(node, UPLINK)?, inspect::programs(node, DEVICE)?]);
    let before = programs()?;
    let streams = overlay.streams()?;
    let mut beside = second(&overlay, "beside", |agent| agent)?;
    assert_eq!(beside.wait_exit(REFUSING)?.code(), Some(1), "{}", beside.log());
    let errors = lines_of(&beside.log(), "ERROR");
    let holder = format!("(pid {}) serves the network vxlan 1", overlay.agents[0].pid());
    assert!(errors.len() == 1 && errors[0].contains(&holder), "{errors:#?}");
    assert_eq!(programs()?, before);
    streams.ensure_whole()?;
    let log = overlay.agents[0].log();
    assert!(!log.contains("detached by another program"), "{log}");

    // It has the same health endpoint, as the next version of a pod has, and the first one ends while it waits.
    let mut next = second(&overlay, "next", with_endpoint)?;
    eventually("it waits", WAITING, || {
        let warnings = lines_of(&next.log(), "WARN");
        ensure!(warnings.len() == 1 && warnings[0].contains("in use: waiting up to"), "{warnings:#?}");
        Ok(())
    })?;
    overlay.agents[0].term()?;
    next.wait_ready()?;

    // What was killed hinders nobody.
    next.kill()?;
    let mut last = second(&overlay, "last", with_endpoint)?;
    last.wait_ready()?;
    let (one, other) = overlay.two_pods();
    eventually("pods reach each other", TAKEOVER, || ping(one, other.ip()).and(ping(other, one.ip())))?;
    assert_eq!(lines_of(&last.log(), "WARN"), [""; 0]);
    Ok(())
}
