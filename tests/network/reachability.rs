//! All pods and hosts reach each other, and BPF carries the packets.

use std::net::IpAddr;

use anyhow::Result;
use flannel_tests::traffic::{At, ping};
use flannel_tests::{Host, Node, TestResult, Topology};

use crate::inspect::{self, DEVICE};
use crate::overlay::{Overlay, ping_all_pairs};

/// Packets sent and received through a node's vxlan device: by the kernel, and by BPF.
#[derive(Debug, PartialEq, Eq)]
struct Passed {
    kernel: (u64, u64),
    bpf: (u64, u64),
}

fn passed(overlay: &Overlay) -> Result<Vec<Passed>> {
    let passed = |node: &Node| {
        let (received, sent) = node.counters(DEVICE)?;
        Ok(Passed { kernel: (sent.packets, received.packets), bpf: inspect::carried(node)? })
    };
    overlay.nodes().iter().map(passed).collect()
}

/// Disables IPv6 on the vxlan devices, so that packets of the kernel itself are not counted.
fn silence_ipv6(overlay: &Overlay) -> Result<()> {
    let key = format!("net/ipv6/conf/{DEVICE}/disable_ipv6");
    overlay.nodes().iter().try_for_each(|node| node.netns().set(&[(&key, "1")]))
}

#[test]
fn all_pods_reach_each_other_through_bpf_alone() -> TestResult {
    let overlay = Overlay::start(Topology::segment(3), &["--dataplane=bpf"; 3], 2)?;
    silence_ipv6(&overlay)?;
    let before = passed(&overlay)?;
    ping_all_pairs(overlay.pods.iter().flatten())?;
    // On each node 2 pods ping the 4 others, and answer each.
    for (node, (then, now)) in before.into_iter().zip(passed(&overlay)?).enumerate() {
        assert_eq!(now.bpf, (then.bpf.0 + 16, then.bpf.1 + 16), "node {node}: packets that BPF carried");
        assert_eq!(now.kernel, then.kernel, "node {node}: packets that the kernel's device carried");
    }
    Ok(())
}

#[test]
fn a_host_reaches_remote_pods_and_they_reach_it() -> TestResult {
    let overlay = Overlay::bpf(2)?;
    let (pod, node) = (&overlay.pods[1][0], &overlay.nodes()[0]);
    let base = IpAddr::V4(overlay.base(0)?);
    let host = At { netns: node.netns(), ip: base };
    let before = inspect::carried(node)?;
    ping(&host, pod.ip())?;
    ping(pod, base)?;
    assert_eq!(inspect::carried(node)?, (before.0 + 2, before.1 + 2));
    assert_eq!(chosen_source(node, pod.ip())?, base, "the host's source address to a pod");
    // Sent with the node's own address, the ping is answered outside the overlay.
    ping(node, pod.ip())?;
    Ok(())
}

/// Returns the source address that the kernel chooses for an unbound socket.
fn chosen_source(from: &dyn Host, to: IpAddr) -> Result<IpAddr> {
    let socket = from.netns().udp_bind(IpAddr::from([0; 4]), 0)?;
    socket.connect((to, 9))?;
    Ok(socket.local_addr()?.ip())
}

#[test]
fn a_failed_node_does_not_affect_the_others() -> TestResult {
    let mut overlay = Overlay::bpf(3)?;
    overlay.agents[2].kill()?;
    overlay.nodes()[2].netns().ip(&["link set eth0 down"])?;
    let (one, other) = overlay.two_pods();
    ping(one, other.ip())?;
    let gone = ping(one, overlay.pods[2][0].ip());
    assert!(gone.is_err(), "a node without an uplink answered");
    Ok(())
}
