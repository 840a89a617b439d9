//! Checksums over IPv6, which has no header checksum. Broken packets do not arrive and all others do, whatever computes
//! and verifies the checksums.

use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use anyhow::Result;
use etherparse::{EtherType, IpNumber};
use flannel_agent::mac::Mac;
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::traffic::{At, UdpSession, send_frame, tcp_transfer};
use flannel_tests::wait::scaled;
use flannel_tests::{Node, TestResult};

use super::{DEVICE, Overlay, two_nodes, two_pods, ways};
use crate::inspect::{self, UPLINK};
use crate::packets::{self, PORT, frame, ipv6, udp, vxlan};

const SERVICE: u16 = 4789;
/// Longer than a packet travels from node to node.
const WHILE: Duration = Duration::from_millis(200);

/// Sends datagrams of many sizes and bulk data, through the stack and past it.
fn traffic(overlay: &Overlay) -> Result<()> {
    let (one, other) = two_pods(overlay)?;
    for (from, to) in [(&one, &other), (&other, &one)] {
        let mut session = UdpSession::open(from, to)?;
        [0, 1, 2, 3, 500, 1381, 1382, 1383, 9000].into_iter().try_for_each(|size| session.echo(size))?;
        tcp_transfer(from, to, 4 << 20)?;
    }
    Ok(())
}

#[test]
fn traffic_passes_whichever_offloads_are_on() -> TestResult {
    ensure_traffic_passes_whichever_offloads_are_on(&two_nodes()?)
}

/// Fails if data is lost or damaged between two nodes' pods with any of several choices of offloads.
pub(super) fn ensure_traffic_passes_whichever_offloads_are_on(overlay: &Overlay) -> TestResult {
    let (one, other) = overlay.two_pods();
    let fabric = overlay.cluster.fabric().expect("a switch");
    for feature in ["tx off", "tso off gso off", "gro off rx off"] {
        for pod in [one, other] {
            pod.exec(&format!("ethtool -K eth0 {feature}"))?;
            traffic(overlay)?;
        }
    }
    for node in overlay.nodes() {
        node.exec(&format!("ethtool -K {UPLINK} tx off"))?;
        traffic(overlay)?;
        node.exec(&format!("ethtool -K {DEVICE} tx off"))?;
        traffic(overlay)?;
    }
    fabric.exec("ethtool -K n0 tx off gro on")?;
    traffic(overlay)?;
    let counted = ways(&overlay.nodes()[0])?;
    assert!(counted.shortcut.0 > 100 && counted.shortcut.1 > 100, "{counted:?}");
    Ok(())
}

/// Sends VXLAN packets made by the test from the second node to the first node's pod.
struct PeerSender<'a> {
    overlay: &'a Overlay,
    socket: UdpSocket,
}

impl PeerSender<'_> {
    fn ip(pod: &At<'_>) -> Ipv6Addr {
        match pod.ip {
            IpAddr::V6(ip) => ip,
            IpAddr::V4(_) => unreachable!("asked for IPv6"),
        }
    }

    /// Builds an inner datagram, whose checksum `spoil` may change.
    fn inner(&self, payload: &[u8], spoil: impl FnOnce(&mut Vec<u8>)) -> Result<Vec<u8>> {
        let (to, from) = two_pods(self.overlay)?;
        let (from, to) = (Self::ip(&from), Self::ip(&to));
        let mut datagram = packets::udp_over_ipv6(from, to, 53, SERVICE, payload);
        spoil(&mut datagram);
        let mac = inspect::link(&self.overlay.nodes()[0], DEVICE)?.mac.parse::<Mac>()?.0;
        let packet = ipv6(from, to, IpNumber::UDP, datagram).bytes();
        Ok(vxlan(8, 1, &frame(mac, [2, 0, 0, 0, 0, 1], EtherType::IPV6, &packet)))
    }

    /// Sends an outer packet with this UDP header and payload.
    fn send(&self, datagram: Vec<u8>) -> Result<()> {
        let [to, from] = self.overlay.nodes() else { unreachable!("two nodes") };
        let packet = ipv6(from.ip6(), to.ip6(), IpNumber::UDP, datagram).bytes();
        let mac = |node: &Node| Ok::<_, anyhow::Error>(inspect::link(node, UPLINK)?.mac.parse::<Mac>()?);
        send_frame(from.netns(), UPLINK, &frame(mac(to)?.0, mac(from)?.0, EtherType::IPV6, &packet))
    }

    fn outer(&self, payload: &[u8]) -> Vec<u8> {
        let [to, from] = self.overlay.nodes() else { unreachable!("two nodes") };
        packets::udp_over_ipv6(from.ip6(), to.ip6(), 41000, PORT, payload)
    }

    /// Receives a datagram, if one arrives within a moment.
    fn received(&self) -> Option<Vec<u8>> {
        let mut buffer = [0; 100];
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    }
}

#[test]
fn packets_with_a_wrong_inner_checksum_do_not_arrive() -> TestResult {
    ensure_packets_with_a_wrong_inner_checksum_do_not_arrive(&two_nodes()?)
}

/// Fails if a datagram with a wrong inner checksum reaches the first node's pod, or a right one does not.
pub(super) fn ensure_packets_with_a_wrong_inner_checksum_do_not_arrive(overlay: &Overlay) -> TestResult {
    let (pod, _) = two_pods(overlay)?;
    let socket = pod.netns.udp_bind(pod.ip, SERVICE)?;
    socket.set_read_timeout(Some(scaled(WHILE)))?;
    let sender = PeerSender { overlay, socket };
    let node = &overlay.nodes()[0];
    let count = |outcome| inspect::packets(node, Hook::UnderlayIngress, outcome);
    // The first datagram passes the stack, the others skip it.
    for number in 0..3u8 {
        sender.send(sender.outer(&sender.inner(&[number], |_| {})?))?;
        assert_eq!(sender.received().as_deref(), Some(&[number][..]), "a right checksum");
        let before = count(Outcome::Decapsulated)? + count(Outcome::Delivered)?;
        sender.send(sender.outer(&sender.inner(b"broken", |datagram| datagram[8] ^= 1)?))?;
        assert_eq!(sender.received(), None, "a wrong inner checksum");
        assert_eq!(count(Outcome::Decapsulated)? + count(Outcome::Delivered)?, before + 1);
    }
    assert!(count(Outcome::Delivered)? > 0, "no packet took the shortcut");
    Ok(())
}

#[test]
fn packets_without_an_outer_checksum_are_dropped_by_the_kernel() -> TestResult {
    let overlay = two_nodes()?;
    let (pod, _) = two_pods(&overlay)?;
    let socket = pod.netns.udp_bind(pod.ip, SERVICE)?;
    socket.set_read_timeout(Some(scaled(WHILE)))?;
    let sender = PeerSender { overlay: &overlay, socket };
    let before = inspect::packets(&overlay.nodes()[0], Hook::UnderlayIngress, Outcome::OuterChecksum)?;
    sender.send(udp(41000, PORT, &sender.inner(b"unchecked", |_| {})?))?;
    assert_eq!(sender.received(), None);
    let now = inspect::packets(&overlay.nodes()[0], Hook::UnderlayIngress, Outcome::OuterChecksum)?;
    assert_eq!(now, before + 1);
    Ok(())
}
