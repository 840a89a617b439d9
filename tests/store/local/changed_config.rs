//! A network configuration that changes while agents run.

use flannel_tests::{Datastore as _, TestResult};

use super::Bed;
use crate::inspect;
use crate::overlay::{NETWORK, lines_of, wait_logged, with_backend_keys};

#[test]
fn keys_of_one_node_are_changed_over_to_without_loss_and_others_wait_for_a_restart() -> TestResult {
    let bed = Bed::shared(2)?;
    inspect::attached_all(bed.node(0), 5)?;
    let streams = bed.streams()?;
    bed.store().configure(&with_backend_keys(NETWORK, r#""FlowCache":false"#))?;
    wait_logged(
        &bed.agents[0],
        "INFO",
        &["has changed: Backend.FlowCache from true to false. Changing over to it"],
    )?;
    inspect::attached_all(bed.node(0), 3)?;
    bed.store().configure(&with_backend_keys(NETWORK, r#""FlowCache":true,"VNI":7"#))?;
    wait_logged(
        &bed.agents[0],
        "WARN",
        &["has changed: Backend.VNI from 1 to 7. This takes effect when the agents of all"],
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
    wait_logged(&bed.agents[0], "ERROR", &["not a JSON object", "the one in use stays"])?;
    inspect::attached_all(bed.node(0), 5)?;
    streams.ensure_whole()?;
    bed.agents[0].ensure_running()?;
    Ok(())
}
