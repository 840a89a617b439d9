//! Bulk data over TCP, sent in aggregates. Every byte is checked.

use flannel_tests::TestResult;
use flannel_tests::traffic::tcp_transfer;

use crate::inspect;
use crate::overlay::Overlay;

const BULK: usize = 200 << 20;
/// Few enough that they arrive soon where packets are lost.
const FEW: usize = 1 << 20;
/// Drops every tenth packet that is for the namespace itself.
const LOSSY: &str = "table inet lossy {
    chain input { type filter hook input priority 0; numgen inc mod 10 9 drop; }
}";

#[test]
fn bulk_data_arrives_unchanged_both_ways() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    let (one, other) = overlay.two_pods();
    for (from, to, node) in [(one, other, 0), (other, one, 1)] {
        let before = inspect::carried(&overlay.nodes()[node])?.0;
        tcp_transfer(from, to, BULK)?.ensure_few_lost()?;
        let aggregates = inspect::carried(&overlay.nodes()[node])?.0 - before;
        // An aggregate holds at most 64 KiB, so fewer packets cannot have carried the data.
        assert!(aggregates as usize >= BULK >> 16, "BPF wrapped only {aggregates} packets");
    }
    other.netns().exec_with("nft -f -", LOSSY)?;
    let lossy = tcp_transfer(one, other, FEW)?.ensure_few_lost();
    assert!(lossy.is_err(), "every tenth packet was dropped, and nobody has missed one");
    Ok(())
}
