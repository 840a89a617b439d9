//! Group policy: packets arrive with the mark that the sending node gave them, with BPF or without.

use anyhow::{Context as _, Result, ensure};
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::traffic::{UdpSession, tcp_transfer};
use flannel_tests::{Capture, Node, Pod, TestResult, Topology, eventually};

use super::flow_cache::SOON;
use crate::inspect::{self, DEVICE, UPLINK};
use crate::overlay::{Overlay, with_xdp};

const NETWORK: &str =
    r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.63.0","Backend":{"Type":"vxlan","GBP":true}}"#;

/// A mark, the VXLAN flags and group for it, and the mark that arrives.
const GROUPS: [(u32, &str, &str, u32); 6] = [
    (0, "0x0800", "0", 0),
    (42, "0x8800", "42", 42),
    (0xabcd, "0x8800", "43981", 0xabcd),
    (0x0048_0001, "0x8848", "1", 0x0048_0001),
    (u32::MAX, "0x8848", "65535", 0x0048_ffff),
    (0x8000_0000, "0x8800", "0", 0),
];

/// Starts two nodes, each with its own flag.
pub(super) fn overlay(flags: [&str; 2]) -> Result<Overlay> {
    overlay_in(NETWORK, flags)
}

fn overlay_in(network: &str, flags: [&str; 2]) -> Result<Overlay> {
    let overlay = Overlay::start_in(network, Topology::segment(2), &flags, 1, |agent| agent)?;
    for (node, (pods, flag)) in overlay.nodes().iter().zip(overlay.pods.iter().zip(flags)) {
        ensure!(
            node.exec(&format!("ip -d link show dev {DEVICE}"))?.contains(" gbp "),
            "a device without GBP"
        );
        if flag == "--dataplane=bpf" {
            inspect::wait_plugged(node, &pods[0])?;
        }
    }
    Ok(overlay)
}

/// Makes the node mark its pod's packets, instead of with an earlier mark.
pub(super) fn mark(node: &Node, pod: &Pod, mark: u32) -> Result<()> {
    node.exec("iptables -t mangle -F FORWARD")?;
    node.exec(&format!("iptables -t mangle -A FORWARD -s {} -j MARK --set-mark {mark:#x}", pod.ip()))
        .map(drop)
}

/// Makes the node count packets from the overlay with this mark.
fn count(node: &Node, mark: u32) -> Result<()> {
    node.exec("iptables -t mangle -F FORWARD")?;
    node.exec(&format!("iptables -t mangle -A FORWARD -i {DEVICE} -m mark --mark {mark:#x}")).map(drop)
}

/// Returns the counter of [`count`]'s rule.
fn counted(node: &Node) -> Result<u64> {
    let rules = node.exec("iptables-save -c -t mangle")?;
    let rule = rules.lines().find(|line| line.contains("-m mark")).context("no rule that counts")?;
    let packets = rule.trim_start_matches('[').split(':').next().context("a rule without counters")?;
    Ok(packets.parse()?)
}

/// Returns the first 16 bits and the group of each captured VXLAN packet of a node.
fn groups(capture: &Capture, from: &Node) -> Result<Vec<Vec<String>>> {
    capture.fields(&format!("vxlan && ip.src == {}", from.ip()), &["vxlan.flags", "vxlan.gbp"])
}

#[test]
fn marks_and_groups_are_those_of_the_kernel_device() -> TestResult {
    for xdp in ["off", "native"] {
        let network = with_xdp(NETWORK, xdp);
        let overlay = overlay_in(&network, ["--dataplane=bpf", "--dataplane=netlink"])?;
        ensure_marks_and_groups_are_those_of_the_kernel_device(&overlay)?;
        let stripped = inspect::packets(&overlay.nodes()[0], Hook::UnderlayXdp, Outcome::HandedOver)?;
        assert_eq!(stripped > 0, xdp == "native", "{stripped} packets were stripped by XDP");
    }
    Ok(())
}

fn ensure_marks_and_groups_are_those_of_the_kernel_device(overlay: &Overlay) -> TestResult {
    let carried = inspect::carried(&overlay.nodes()[0])?;
    for (from, to) in [(0, 1), (1, 0)] {
        let [(sender, one), (receiver, other)] =
            [from, to].map(|node| (&overlay.nodes()[node], &overlay.pods[node][0]));
        for (sent, flags, group, arrived) in GROUPS {
            mark(sender, one, sent)?;
            count(receiver, arrived)?;
            let capture = Capture::start(sender.netns(), UPLINK)?;
            UdpSession::open(one, other)?.request(100)?;
            assert_eq!(groups(&capture.stop()?, sender)?, [[flags, group]], "{sent:#x} from node {from}");
            assert_eq!(counted(receiver)?, 1, "{sent:#x} from node {from}, {arrived:#x} there");
        }
    }
    let now = inspect::carried(&overlay.nodes()[0])?;
    let each = GROUPS.len() as u64;
    assert_eq!(
        (now.0 - carried.0, now.1 - carried.1),
        (each, each),
        "packets that BPF wrapped and unwrapped"
    );
    Ok(())
}

#[test]
fn packets_that_skip_the_stack_have_the_group_that_the_stack_sets() -> TestResult {
    const MORE: usize = 4;
    let overlay = overlay(["--dataplane=bpf"; 2])?;
    let (one, other) = overlay.two_pods();
    let [sender, receiver] = overlay.nodes() else { unreachable!("two nodes") };
    mark(sender, one, 42)?;
    let capture = Capture::start(sender.netns(), UPLINK)?;
    let mut session = UdpSession::open(one, other)?;
    (0..=MORE).try_for_each(|_| session.request(100))?;
    assert_eq!(inspect::shortcut(sender)?.0, MORE as u64);
    assert_eq!(inspect::shortcut(receiver)?.1, MORE as u64);
    tcp_transfer(one, other, 8 << 20)?;
    let seen = groups(&capture.stop()?, sender)?;
    // At most 64 KiB in each.
    assert!(seen.len() > MORE + (8 << 4), "{} packets", seen.len());
    assert!(seen.iter().all(|packet| packet[..] == ["0x8800", "42"]), "{seen:?}");
    let aggregates = inspect::packets(receiver, Hook::OverlayIngress, Outcome::Delivered)?;
    assert!(aggregates > 0, "no aggregate went from the vxlan device to its pod");
    Ok(())
}

#[test]
fn a_proof_holds_for_one_group_only() -> TestResult {
    let overlay = overlay(["--dataplane=bpf", "--dataplane=netlink"])?;
    let [receiver, sender] = overlay.nodes() else { unreachable!("two nodes") };
    let (other, one) = overlay.two_pods();
    receiver.exec(&format!("iptables -I FORWARD -i {DEVICE} -m mark --mark 43 -j DROP"))?;
    let mut session = UdpSession::open(one, other)?;
    for _ in 0..2 {
        mark(sender, one, 42)?;
        let before = inspect::shortcut(receiver)?.1;
        eventually("the group's packets take the shortcut", SOON, || {
            session.request(100)?;
            ensure!(inspect::shortcut(receiver)?.1 > before, "not yet");
            Ok(())
        })?;
        mark(sender, one, 43)?;
        let before = inspect::shortcut(receiver)?.1;
        assert!(session.request(100).is_err(), "a packet of a group that is not let through arrived");
        assert_eq!(inspect::shortcut(receiver)?.1, before);
    }
    Ok(())
}
