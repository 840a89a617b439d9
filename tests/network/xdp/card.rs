//! XDP on a network card: virtio-net, whose driver has native XDP.

use flannel_tests::traffic::{ping, tcp_transfer};
use flannel_tests::{TestResult, Topology};

use super::{NATIVE, handed_over, mode, restart_with};
use crate::inspect;
use crate::overlay::Overlay;

const BULK: usize = 4 << 20;

#[test]
#[ignore = "needs two network cards of virtio-net, which `cargo xtask vm` has"]
fn a_card_strips_outer_headers_if_asked_to() -> TestResult {
    let mut overlay =
        Overlay::start_with(Topology::two_cards(), &["--dataplane=bpf"; 2], 1, |agent| agent.arg(NATIVE))?;
    let (one, other) = overlay.two_pods();
    let before = overlay.nodes().iter().map(handed_over).collect::<anyhow::Result<Vec<_>>>()?;
    ping(one, other.ip())?;
    for (node, before) in overlay.nodes().iter().zip(before) {
        assert_eq!(mode(node)?, Some("native"), "{}", node.name());
        assert_eq!(handed_over(node)?, before + 1, "{}", node.name());
    }
    tcp_transfer(one, other, BULK)?;
    tcp_transfer(other, one, BULK)?;
    for node in overlay.nodes() {
        let (stripped, (_, carried)) = (handed_over(node)?, inspect::carried(node)?);
        assert!(stripped as usize > BULK / 1500, "{}: only {stripped} packets were stripped", node.name());
        assert!(carried <= stripped, "{}: {stripped} packets came to TC as {carried}", node.name());
    }
    // With auto the agent does not use XDP on such cards: they would lose the offloads that make TCP fast.
    restart_with(&mut overlay, "auto")?;
    let (one, other) = overlay.two_pods();
    let (node, stripped) = (&overlay.nodes()[0], handed_over(&overlay.nodes()[0])?);
    assert_eq!(mode(node)?, None);
    ping(one, other.ip())?;
    assert_eq!(handed_over(node)?, stripped);
    Ok(())
}
