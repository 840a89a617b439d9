//! Everybody reaches everybody, and it is BPF that carries the packets.

use std::net::IpAddr;

use anyhow::Result;
use flannel_tests::traffic::{At, ping};
use flannel_tests::{Host, Node, Pod, TestResult, Topology};

use crate::inspect::{self, DEVICE};
use crate::overlay::Overlay;

/// Packets that left and entered through a node's vxlan device: by the kernel, and by BPF.
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

/// The kernel's own IPv6 chatter on the device would count, too.
fn silence_ipv6(overlay: &Overlay) -> Result<()> {
    let key = format!("net/ipv6/conf/{DEVICE}/disable_ipv6");
    overlay.nodes().iter().try_for_each(|node| node.netns().set(&[(&key, "1")]))
}

#[test]
fn all_pods_reach_each_other_through_bpf_alone() -> TestResult {
    let overlay = Overlay::start(Topology::segment(3), &["--dataplane=bpf"; 3], 2)?;
    silence_ipv6(&overlay)?;
    let before = passed(&overlay)?;
    let pods: Vec<&Pod> = overlay.pods.iter().flatten().collect();
    for (from, to) in pods.iter().flat_map(|from| pods.iter().map(move |to| (*from, *to))) {
        ping(from, to.ip())?;
    }
    // Each node: its 2 pods ask the 4 others, and answer each of them.
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
    assert_eq!(chosen_source(node, pod.ip())?, base, "the address a host has when it speaks to a pod");
    // From the node's own address the answer comes back beside the overlay.
    ping(node, pod.ip())?;
    Ok(())
}

/// The address that the kernel gives to a socket that was not told.
fn chosen_source(from: &dyn Host, to: IpAddr) -> Result<IpAddr> {
    let socket = from.netns().udp_bind(IpAddr::from([0; 4]), 0)?;
    socket.connect((to, 9))?;
    Ok(socket.local_addr()?.ip())
}

#[test]
fn one_failing_node_leaves_the_others_alone() -> TestResult {
    let mut overlay = Overlay::bpf(3)?;
    overlay.agents[2].kill()?;
    overlay.nodes()[2].netns().ip(&["link set eth0 down"])?;
    let (one, other) = overlay.two_pods();
    ping(one, other.ip())?;
    let gone = ping(one, overlay.pods[2][0].ip());
    assert!(gone.is_err(), "a node without an uplink answered");
    Ok(())
}
