//! IPv6 over IPv6: BPF decapsulates and checks packets, and proven flows skip the host stack. The kernel's device
//! encapsulates.

mod changes;
mod checksum;
mod flow;
mod forged;
mod path;
mod stay;
mod switched_off;
mod xdp;

use std::time::Duration;

use anyhow::{Context as _, Result};
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::traffic::{At, UdpSession, ping, tcp_transfer};
use flannel_tests::wait::patiently;
use flannel_tests::{AgentBuilder, Node, TestResult, Topology};

use super::flow_cache::PathCounts;
use crate::inspect;
use crate::overlay::{Overlay, ping_all_pairs};

pub(super) const V6_ONLY: &str =
    r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd44::/48","Backend":{"Type":"vxlan"}}"#;
pub(crate) const DUAL: &str = r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.63.0","EnableIPv6":true,"IPv6Network":"fd44::/48",
    "IPv6SubnetMax":"fd44:0:0:fff::","Backend":{"Type":"vxlan"}}"#;
pub(super) const DEVICE: &str = "flannel-v6.1";
pub(super) const BPF: &str = "--dataplane=bpf";
pub(super) const NETLINK: &str = "--dataplane=netlink";
/// Time limit for the nodes to know each other.
const JOINING: Duration = Duration::from_secs(10);
/// The largest payload that is not fragmented: the pods' MTU less the headers of IPv6 and UDP.
const LARGEST_WHOLE: usize = 1430 - 48;

/// Starts nodes with a pod each. Waits until the pods reach each other and, with BPF, their ports have programs.
pub(super) fn start(topology: Topology, config: &str, flags: &[&str]) -> Result<Overlay> {
    let overlay = start_with(topology, config, flags, |agent| agent)?;
    let places = overlay.nodes().iter().zip(&overlay.pods).zip(flags);
    for ((node, pods), _) in places.filter(|(_, flag)| **flag == BPF) {
        inspect::wait_plugged(node, &pods[0])?;
    }
    Ok(overlay)
}

/// Starts nodes with a pod each, with a change to each agent's flags or environment, until the pods reach each other.
fn start_with(
    topology: Topology,
    config: &str,
    flags: &[&str],
    change: impl Fn(AgentBuilder) -> AgentBuilder,
) -> Result<Overlay> {
    let overlay = Overlay::launch(config, topology, flags, 1, change)?;
    patiently("all pods reach each other", JOINING, || all_reach_all(&overlay))?;
    Ok(overlay)
}

/// Starts two nodes with BPF and without IPv4.
pub(super) fn two_nodes() -> Result<Overlay> {
    start(Topology::segment(2), V6_ONLY, &[BPF; 2])
}

fn all_reach_all(overlay: &Overlay) -> Result<()> {
    ping_all_pairs(overlay.pods.iter().flatten())
}

/// Returns the first two nodes' pods at their IPv6 addresses.
pub(super) fn two_pods(overlay: &Overlay) -> Result<(At<'_>, At<'_>)> {
    let (one, other) = overlay.two_pods();
    Ok((one.v6()?, other.v6()?))
}

/// Counts the IPv6 packets that a node sent and received past its host stack, and through it.
fn ways(node: &Node) -> Result<PathCounts> {
    let count = |hook, outcome| inspect::packets(node, hook, outcome);
    let shortcut =
        (count(Hook::PodEgress, Outcome::Forwarded)?, count(Hook::UnderlayIngress, Outcome::Delivered)?);
    let stack = (
        count(Hook::OverlayEgress, Outcome::InnerIpv6)?,
        count(Hook::UnderlayIngress, Outcome::Decapsulated)?,
    );
    Ok(PathCounts { shortcut, stack })
}

/// Returns the base address of a node's IPv6 subnet.
pub(super) fn base(node: &Node) -> Result<std::net::Ipv6Addr> {
    let subnet = node.subnet_env()?.ipv6_subnet.context("no IPv6 subnet")?;
    Ok(std::net::Ipv6Addr::from_bits(subnet.addr.to_bits() & !1))
}

#[test]
fn all_pods_reach_each_other_and_bpf_receives_every_packet() -> TestResult {
    let overlay = start(Topology::segment(3), V6_ONLY, &[BPF; 3])?;
    let before = overlay.nodes().iter().map(ways).collect::<Result<Vec<_>>>()?;
    all_reach_all(&overlay)?;
    for (node, then) in overlay.nodes().iter().zip(before) {
        // Its pod pings the two others, and answers each.
        let stack = (then.stack.0 + 4, then.stack.1 + 4);
        assert_eq!(ways(node)?, PathCounts { stack, ..then }, "{}", node.name());
    }
    Ok(())
}

#[test]
fn a_host_reaches_remote_pods_and_they_reach_it() -> TestResult {
    let overlay = two_nodes()?;
    let (_, pod) = two_pods(&overlay)?;
    let node = &overlay.nodes()[0];
    let host = At { netns: node.netns(), ip: base(node)?.into() };
    let then = ways(node)?;
    ping(&host, pod.ip)?;
    ping(&pod, host.ip)?;
    assert_eq!(ways(node)?, PathCounts { stack: (then.stack.0 + 2, then.stack.1 + 2), ..then });
    Ok(())
}

#[test]
fn both_families_have_bpf() -> TestResult {
    let overlay = start(Topology::segment(2), DUAL, &[BPF; 2])?;
    let (one, other) = overlay.two_pods();
    for (from, to) in [(one.v6()?, other.v6()?), (other.v6()?, one.v6()?)] {
        tcp_transfer(&from, &to, 4 << 20)?;
    }
    let v6 = ways(&overlay.nodes()[0])?;
    assert!(v6.shortcut.0 > 0 && v6.shortcut.1 > 0, "{v6:?}");
    let v4 = inspect::shortcut(&overlay.nodes()[0])?;
    assert_eq!(v4.0, 0, "nothing was sent over IPv4");
    let mut session = UdpSession::open(one, other)?;
    (0..11).try_for_each(|size| session.echo(size))?;
    assert_eq!(inspect::shortcut(&overlay.nodes()[0])?.0, 10);
    assert_eq!(ways(&overlay.nodes()[0])?.shortcut.0, v6.shortcut.0, "nothing was sent over IPv6");
    Ok(())
}

#[test]
fn datagrams_of_every_size_are_echoed() -> TestResult {
    let sizes = [0, 1, 17, 1200, 1231, 1232, 1233, LARGEST_WHOLE - 1, LARGEST_WHOLE, LARGEST_WHOLE + 1, 1500];
    for flags in [[BPF, BPF], [BPF, NETLINK]] {
        let overlay = start(Topology::segment(2), V6_ONLY, &flags)?;
        let (one, other) = two_pods(&overlay)?;
        for (from, to) in [(&one, &other), (&other, &one)] {
            let mut session = UdpSession::open(from, to)?;
            sizes.into_iter().chain([2000, 9000, 65_000]).try_for_each(|size| session.echo(size))?;
        }
        let PathCounts { shortcut, .. } = ways(&overlay.nodes()[0])?;
        // All datagrams of each session but the first and the fragmented ones.
        assert!(shortcut.0 >= 16 && shortcut.1 >= 16, "{flags:?}: {shortcut:?}");
    }
    Ok(())
}

#[test]
fn bulk_data_arrives_unchanged() -> TestResult {
    const BYTES: usize = 50 << 20;
    for flags in [[BPF, BPF], [BPF, NETLINK]] {
        let overlay = start(Topology::segment(2), V6_ONLY, &flags)?;
        let (one, other) = two_pods(&overlay)?;
        tcp_transfer(&one, &other, BYTES)?;
        tcp_transfer(&other, &one, BYTES)?;
        let node = &overlay.nodes()[0];
        let aggregates = inspect::packets(node, Hook::OverlayIngress, Outcome::Delivered)?;
        let PathCounts { shortcut, stack } = ways(node)?;
        assert!(aggregates > 0, "no aggregate went from the vxlan device to its pod");
        assert!(shortcut.0 > 10 * stack.0, "{shortcut:?} past the stack, {stack:?} through it");
        let wrapped = inspect::packets(node, Hook::OverlayEgress, Outcome::AfterShortcut)?;
        assert!(wrapped == shortcut.0, "{wrapped} of {shortcut:?} came to the vxlan device");
    }
    Ok(())
}
