//! A network configuration that changes while agents run.

use anyhow::{Result, ensure};
use flannel_tests::{Datastore as _, TestResult, eventually};

use super::{Bed, SOON};
use crate::inspect;
use crate::overlay::{NETWORK, lines_of};

/// Waits until the first node's agent has logged this at this level.
fn wait_logged(bed: &Bed, level: &str, text: &str) -> Result<()> {
    eventually(text, SOON, || {
        let lines = lines_of(&bed.agents[0].log(), level);
        ensure!(lines.iter().any(|line| line.contains(text)), "{lines:#?}");
        Ok(())
    })
}

fn with_backend_keys(keys: &str) -> String {
    NETWORK.replace(r#""Type":"vxlan""#, &format!(r#""Type":"vxlan",{keys}"#))
}

#[test]
fn keys_of_one_node_are_changed_over_to_without_loss_and_others_wait_for_a_restart() -> TestResult {
    let bed = Bed::shared(2)?;
    inspect::attached_all(bed.node(0), 5)?;
    let streams = bed.streams()?;
    bed.store().configure(&with_backend_keys(r#""FlowCache":false"#))?;
    wait_logged(&bed, "INFO", "has changed: Backend.FlowCache from true to false. Changing over to it")?;
    inspect::attached_all(bed.node(0), 3)?;
    bed.store().configure(&with_backend_keys(r#""FlowCache":true,"VNI":7"#))?;
    wait_logged(
        &bed,
        "WARN",
        "has changed: Backend.VNI from 1 to 7. This takes effect when the agents of all",
    )?;
    inspect::attached_all(bed.node(0), 5)?;
    bed.ensure_known(&[])?;
    streams.ensure_whole()?;
    assert_eq!(lines_of(&bed.agents[0].log(), "ERROR"), [""; 0]);
    Ok(())
}

#[test]
fn a_text_that_cannot_be_used_changes_nothing() -> TestResult {
    let mut bed = Bed::shared(2)?;
    let streams = bed.streams()?;
    bed.store().configure("Network: 10.5.0.0/16")?;
    wait_logged(&bed, "ERROR", "not a JSON object")?;
    wait_logged(&bed, "ERROR", "the one in use stays")?;
    inspect::attached_all(bed.node(0), 5)?;
    streams.ensure_whole()?;
    bed.agents[0].ensure_running()?;
    Ok(())
}
