//! The flow cache: more flows than it has entries.

use std::time::Duration;

use anyhow::{Result, ensure};
use flannel_common::abi;
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::traffic::udp_flood_of;
use flannel_tests::{Node, TestResult, Topology, eventually};

use super::flow_cache::{PathCounts, SOON};
use crate::inspect;
use crate::overlay::Overlay;

/// Entries of the nodes' maps.
const ENTRIES: u32 = 1024;
const PAYLOAD: usize = 64;
const TIME: Duration = Duration::from_millis(500);

/// Returns how many packets proved their flow on the way to a pod, and how many found no entry for theirs.
fn proofs(node: &Node) -> Result<[u64; 2]> {
    let counted = |outcome| inspect::packets(node, Hook::PodIngress, outcome);
    Ok([counted(Outcome::FlowProven)?, counted(Outcome::FlowCrowded)?])
}

#[test]
fn of_more_flows_than_entries_some_take_the_shortcut_and_the_others_leave_them_alone() -> TestResult {
    let flag = format!("--max-flows={ENTRIES}");
    let overlay =
        Overlay::start_with(Topology::segment(2), &["--dataplane=bpf"; 2], 1, |agent| agent.arg(&flag))?;
    for (node, pods) in overlay.nodes().iter().zip(&overlay.pods) {
        pods.iter().try_for_each(|pod| inspect::wait_plugged(node, pod))?;
        assert_eq!(inspect::map_entries(node, abi::FLOWS)?, u64::from(ENTRIES));
    }
    let (one, other) = overlay.two_pods();
    let [sender, receiver] = overlay.nodes() else { unreachable!("two nodes") };
    // Flows are counted three times in this time.
    receiver.netns().set(&[("net.netfilter.nf_conntrack_tcp_timeout_established", "3")])?;
    // As many as there is room for: all of them take the shortcut, and none is refused an entry.
    udp_flood_of(ENTRIES / 2, one, other, PAYLOAD, TIME)?;
    let [proven, crowded] = proofs(receiver)?;
    assert_eq!(crowded, 0, "there is room for all of them");
    assert!(proven >= u64::from(ENTRIES / 2), "{proven} proofs");
    let before = [PathCounts::of(sender)?, PathCounts::of(receiver)?];
    udp_flood_of(2 * ENTRIES, one, other, PAYLOAD, TIME)?;
    let [again, crowded] = proofs(receiver)?;
    let past = |now: PathCounts, then: PathCounts| {
        let sent = (now.shortcut.0 - then.shortcut.0, now.stack.0 - then.stack.0);
        let received = (now.shortcut.1 - then.shortcut.1, now.stack.1 - then.stack.1);
        let (shortcut, stack) = if sent > received { sent } else { received };
        shortcut as f64 / (shortcut + stack) as f64
    };
    let shares = [past(PathCounts::of(sender)?, before[0]), past(PathCounts::of(receiver)?, before[1])];
    // Four datagrams of each flow and more were sent; of the first three some are new.
    assert!(shares.iter().all(|share| *share > 0.2), "past the stack: {shares:?}");
    assert!(
        crowded > again - proven,
        "{crowded} packets found no entry, and {} made or renewed one",
        again - proven
    );
    eventually("the agent says that the map is full", SOON, || {
        ensure!(overlay.agents[1].log().contains("--max-flows makes room"), "not yet");
        Ok(())
    })?;
    Ok(())
}
