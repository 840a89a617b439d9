//! Frames that end inside their headers. They are really sent, since BPF_PROG_TEST_RUN refuses such frames.

use std::time::Duration;

use anyhow::{Result, ensure};
use etherparse::{EtherType, IpNumber};
use flannel_agent::mac::Mac;
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::traffic::{ping, send_frame};
use flannel_tests::{Node, TestResult, Topology, eventually};

use crate::inspect::{self, DEVICE, UPLINK};
use crate::overlay::Overlay;
use crate::packets::{PORT, frame, ipv4, udp, vxlan};

const ARRIVAL: Duration = Duration::from_secs(5);
/// Lengths to which an IPv4 packet with a header of 20 bytes is truncated.
const CUTS: [usize; 4] = [0, 1, 10, 19];
/// Number of repetitions. So many that the few other packets of the uplink (ARP, IPv6) do not matter.
const ROUNDS: u64 = 50;

fn mac(node: &Node, interface: &str) -> Result<[u8; 6]> {
    Ok(inspect::link(node, interface)?.mac.parse::<Mac>()?.0)
}

/// Builds a frame between two nodes' interfaces of this name, with the first bytes of an IPv4 packet.
fn cut(from: &Node, to: &Node, interface: &str, length: usize) -> Result<Vec<u8>> {
    let whole = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 5, 1, 2, 10, 5, 2, 2];
    Ok(frame(mac(to, interface)?, mac(from, interface)?, EtherType::IPV4, &whole[..length]))
}

/// Builds a truncated frame inside VXLAN with complete outer headers.
fn wrapped_cut(from: &Node, to: &Node, length: usize) -> Result<Vec<u8>> {
    let inside = vxlan(8, 1, &cut(from, to, DEVICE, length)?);
    let outer = ipv4(from.ip(), to.ip(), IpNumber::UDP, udp(40_000, PORT, &inside)).bytes();
    Ok(frame(mac(to, UPLINK)?, mac(from, UPLINK)?, EtherType::IPV4, &outer))
}

/// Builds a frame of each length for the overlay, for the underlay, and for the underlay inside VXLAN.
fn frames(near: &Node, far: &Node) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut frames = Vec::new();
    for length in CUTS {
        frames.push((DEVICE, cut(near, far, DEVICE, length)?));
        frames.push((UPLINK, cut(near, far, UPLINK, length)?));
        frames.push((UPLINK, wrapped_cut(near, far, length)?));
    }
    Ok(frames)
}

fn ensure_counted(node: &Node, hook: Hook, outcome: Outcome, expected: u64) -> Result<()> {
    eventually("the frames are counted", ARRIVAL, || {
        let counted = inspect::packets(node, hook, outcome)?;
        ensure!(counted >= expected, "{} at {hook:?}: {counted} of {expected}", outcome.name());
        Ok(())
    })
}

#[test]
fn truncated_frames_are_left_to_the_kernel() -> TestResult {
    // On a veth pair: a bridge between the nodes would pass the frames to netfilter, which drops them.
    let mut overlay = Overlay::start(Topology::two_nodes(), &["--dataplane=bpf"; 2], 1)?;
    let [near, far] = overlay.nodes() else { unreachable!("two nodes") };
    let streams = overlay.streams()?;
    let count = |node, hook, outcome| inspect::packets(node, hook, outcome);
    let sent = count(near, Hook::OverlayEgress, Outcome::Truncated)?;
    let unwrapped = count(far, Hook::UnderlayIngress, Outcome::Truncated)?;
    let plain = count(far, Hook::UnderlayIngress, Outcome::NotVxlan)?;
    let frames = frames(near, far)?;
    for (interface, frame) in (0..ROUNDS).flat_map(|_| &frames) {
        send_frame(near.netns(), interface, frame)?;
    }
    let cuts = ROUNDS * CUTS.len() as u64;
    ensure_counted(near, Hook::OverlayEgress, Outcome::Truncated, sent + cuts)?;
    ensure_counted(far, Hook::UnderlayIngress, Outcome::Truncated, unwrapped + cuts)?;
    ensure_counted(far, Hook::UnderlayIngress, Outcome::NotVxlan, plain + cuts)?;
    streams.ensure_whole()?;
    let (one, other) = overlay.two_pods();
    ping(one, other.ip())?;
    overlay.agents.iter_mut().try_for_each(flannel_tests::Agent::ensure_running)?;
    Ok(())
}
