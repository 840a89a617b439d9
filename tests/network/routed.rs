//! Nodes on different segments with a router between them, which sees only outer packets.

use flannel_tests::traffic::{ping, tcp_transfer};
use flannel_tests::{Capture, TestResult, Topology};

use super::udp;
use crate::inspect::UPLINK;
use crate::overlay::Overlay;

#[test]
fn pods_reach_each_other_over_a_router() -> TestResult {
    let overlay = Overlay::start(Topology::two_nodes_routed(), &["--dataplane=bpf"; 2], 1)?;
    let (one, other) = overlay.two_pods();
    ping(one, other.ip())?;
    ping(other, one.ip())?;
    udp::echo(one, other, [0, 1, 1421, 1422, 1423, 9000])?;
    tcp_transfer(one, other, 8 << 20)?;
    tcp_transfer(other, one, 8 << 20)?;
    Ok(())
}

#[test]
fn outer_packets_pass_the_router_and_inner_ones_do_not() -> TestResult {
    let overlay = Overlay::start(Topology::two_nodes_routed(), &["--dataplane=bpf"; 2], 1)?;
    let (one, other) = overlay.two_pods();
    let capture = Capture::start(overlay.nodes()[1].netns(), UPLINK)?;
    ping(one, other.ip())?;
    let seen = capture.stop()?.fields("vxlan && icmp.type == 8", &["ip.ttl"])?;
    // The router has decremented the outer TTL, and the sending node the inner one.
    assert_eq!(seen, [["63,63"]], "outer and inner TTL");
    Ok(())
}
