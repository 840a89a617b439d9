//! Bulk data over TCP, sent in aggregates. Every byte is checked.

use anyhow::{Context as _, Result, ensure};
use flannel_tests::traffic::tcp_transfer;
use flannel_tests::{Pod, TestResult};

use crate::inspect;
use crate::overlay::Overlay;

const BULK: usize = 200 << 20;

#[test]
fn bulk_data_arrives_unchanged_both_ways() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    let (one, other) = overlay.two_pods();
    for (from, to, node) in [(one, other, 0), (other, one, 1)] {
        let before = inspect::carried(&overlay.nodes()[node])?.0;
        tcp_transfer(from, to, BULK)?;
        let aggregates = inspect::carried(&overlay.nodes()[node])?.0 - before;
        // An aggregate holds at most 64 KiB, so fewer packets cannot have carried the data.
        assert!(aggregates as usize >= BULK >> 16, "BPF wrapped only {aggregates} packets");
        ensure_few_repeats(from)?;
    }
    Ok(())
}

/// Aggregates that are cut wrongly arrive all the same, by retransmission.
pub(super) fn ensure_few_repeats(pod: &Pod) -> Result<()> {
    let snmp = pod.exec("cat /proc/net/snmp")?;
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = lines.next().zip(lines.next()).context("no TCP counters")?;
    let value = |name: &str| {
        let found = names.split(' ').zip(values.split(' ')).find(|(known, _)| *known == name);
        Ok::<u64, anyhow::Error>(found.context("no such counter")?.1.parse()?)
    };
    let (sent, repeated) = (value("OutSegs")?, value("RetransSegs")?);
    ensure!(sent > 0 && repeated * 50 <= sent, "{repeated} of {sent} segments were sent again");
    Ok(())
}
