//! A network configuration in etcd that changes while agents run.

use flannel_tests::TestResult;
use flannel_tests::etcd::PREFIX;

use crate::inspect;
use crate::overlay::{NETWORK, Overlay, lines_of, wait_logged, with_backend_keys};

const NO_FLOW_CACHE: &str = r#""FlowCache":false"#;
const CHANGED: &str = "has changed: Backend.FlowCache from true to false. Changing over to it";

#[test]
fn all_agents_change_over_without_loss_or_say_what_needs_a_restart() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    let streams = overlay.streams()?;
    overlay.etcd.configure(&with_backend_keys(NETWORK, NO_FLOW_CACHE))?;
    for agent in &overlay.agents {
        wait_logged(agent, "INFO", &[CHANGED])?;
    }
    overlay.etcd.configure(&with_backend_keys(NETWORK, r#""FlowCache":false,"VNI":7"#))?;
    for (agent, node) in overlay.agents.iter().zip(overlay.nodes()) {
        wait_logged(agent, "WARN", &["has changed: Backend.VNI from 1 to 7. This takes effect when"])?;
        inspect::attached_all(node, 3)?;
        assert_eq!(lines_of(&agent.log(), "ERROR"), [""; 0]);
    }
    overlay.wait_joined()?;
    streams.ensure_whole()?;
    Ok(())
}

#[test]
fn a_text_that_cannot_be_used_or_is_removed_changes_nothing_until_it_is_mended() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    let (agent, node) = (&overlay.agents[0], &overlay.nodes()[0]);
    let streams = overlay.streams()?;
    inspect::attached_all(node, 5)?;
    overlay.etcd.configure("Network: 10.5.0.0/16")?;
    wait_logged(agent, "ERROR", &["not a JSON object", "the one in use stays"])?;
    overlay.etcd.delete(&format!("{PREFIX}/config"))?;
    wait_logged(agent, "ERROR", &["etcd has no network config", "the one in use stays"])?;
    inspect::attached_all(node, 5)?;
    overlay.etcd.configure(&with_backend_keys(NETWORK, NO_FLOW_CACHE))?;
    wait_logged(agent, "INFO", &[CHANGED])?;
    inspect::attached_all(node, 3)?;
    streams.ensure_whole()?;
    Ok(())
}

#[test]
fn a_change_is_seen_that_was_made_while_etcd_did_not_answer() -> TestResult {
    let mut overlay = Overlay::bpf(2)?;
    let streams = overlay.streams()?;
    overlay.etcd.restart_empty()?;
    overlay.etcd.configure(&with_backend_keys(NETWORK, NO_FLOW_CACHE))?;
    for agent in &overlay.agents {
        wait_logged(agent, "INFO", &[CHANGED])?;
    }
    // The revisions of this etcd have begun anew.
    overlay.etcd.configure(NETWORK)?;
    for agent in &overlay.agents {
        wait_logged(agent, "INFO", &["has changed: Backend.FlowCache from false to true"])?;
    }
    streams.ensure_whole()?;
    Ok(())
}
