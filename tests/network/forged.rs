//! Forged VXLAN packets, which any host on the underlay can send.

mod order;
mod ways;

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use anyhow::{Context as _, Result, bail};
use etherparse::{EtherType, IpNumber};
use flannel_agent::mac::Mac;
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::traffic::send_frame;
use flannel_tests::{Node, TestResult, Topology};

use crate::inspect::{self, DEVICE, UPLINK};
use crate::overlay::Overlay;
use crate::packets::{PORT, frame, ipv4, udp, vxlan};

/// An address on the underlay that no lease has.
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 168, 64, 77);
/// An address outside the network that no node is known by.
const ROUTED: Ipv4Addr = Ipv4Addr::new(172, 31, 9, 1);
const ATTACKER: [u8; 6] = [2, 0, 0, 0, 0, 1];
const SERVICE: u16 = 4789;

/// Outer source, inner source, and the outcome that counts it.
type Forgery = (Ipv4Addr, Ipv4Addr, Outcome);

fn forgeries(overlay: &Overlay) -> Result<Vec<Forgery>> {
    let (ours, theirs) = (overlay.base(0)?, overlay.base(1)?);
    let sender = overlay.nodes()[1].ip();
    let host = |base: Ipv4Addr| Ipv4Addr::from(base.to_bits() + 9);
    Ok(vec![
        (STRANGER, host(theirs), Outcome::ForgedSender),
        (STRANGER, STRANGER, Outcome::UnknownSender),
        (sender, unleased(overlay)?, Outcome::UnknownSender),
        (sender, host(ours), Outcome::LoopedSender),
    ])
}

/// Returns an address that a node could lease, and neither of the two nodes has leased.
pub(crate) fn unleased(overlay: &Overlay) -> Result<Ipv4Addr> {
    let taken = [overlay.base(0)?, overlay.base(1)?];
    let free = (1..).map(|subnet| Ipv4Addr::new(10, 5, subnet, 0)).find(|base| !taken.contains(base));
    Ok(Ipv4Addr::from(free.context("a free subnet")?.to_bits() + 7))
}

/// Sends a VXLAN packet from the second node to the first node's pod, with these outer and inner sources.
pub(crate) fn send(overlay: &Overlay, from: Ipv4Addr, source: Ipv4Addr, payload: &[u8]) -> Result<()> {
    let [victim, attacker] = overlay.nodes() else { unreachable!("two nodes") };
    let pod = ipv4_of(overlay, 0)?;
    let packet = ipv4(source, pod, IpNumber::UDP, udp(53, SERVICE, payload)).bytes();
    let mac = |interface| Ok::<_, anyhow::Error>(inspect::link(victim, interface)?.mac.parse::<Mac>()?.0);
    let wrapped = vxlan(8, 1, &frame(mac(DEVICE)?, ATTACKER, EtherType::IPV4, &packet));
    let outer = ipv4(from, victim.ip(), IpNumber::UDP, udp(41000, PORT, &wrapped)).bytes();
    send_frame(attacker.netns(), UPLINK, &frame(mac(UPLINK)?, ATTACKER, EtherType::IPV4, &outer))
}

/// Returns the address of a node's pod.
pub(super) fn ipv4_of(overlay: &Overlay, node: usize) -> Result<Ipv4Addr> {
    match overlay.pods[node][0].ip() {
        IpAddr::V4(ip) => Ok(ip),
        ip => bail!("{ip} is no IPv4 address"),
    }
}

/// Receives the next datagram.
pub(super) fn receive(socket: &UdpSocket) -> Result<Vec<u8>> {
    let mut buffer = [0; 100];
    let length = socket.recv(&mut buffer)?;
    Ok(buffer[..length].to_vec())
}

/// Binds the socket of the first node's pod to which [`send`] sends.
pub(super) fn listen(overlay: &Overlay) -> Result<UdpSocket> {
    let pod = &overlay.pods[0][0];
    pod.netns().udp_bind(pod.ip(), SERVICE)
}

fn dropped(node: &Node) -> Result<u64> {
    let outcomes = [Outcome::ForgedSender, Outcome::UnknownSender, Outcome::LoopedSender];
    outcomes.into_iter().map(|outcome| inspect::packets(node, Hook::UnderlayIngress, outcome)).sum()
}

#[test]
fn forged_packets_do_not_reach_a_pod() -> TestResult {
    ensure_dropped(&Overlay::start(Topology::segment(2), &["--dataplane=bpf"; 2], 1)?)
}

/// Fails if a forged packet reaches the first node's pod, or is dropped with the wrong outcome, or a peer's does not arrive.
pub(super) fn ensure_dropped(overlay: &Overlay) -> TestResult {
    let socket = listen(overlay)?;
    let victim = &overlay.nodes()[0];
    for (from, source, outcome) in forgeries(overlay)? {
        let before = inspect::packets(victim, Hook::UnderlayIngress, outcome)?;
        send(overlay, from, source, b"forged")?;
        // When this valid packet has arrived, the forged one before it would have arrived, too.
        send(overlay, overlay.nodes()[1].ip(), ipv4_of(overlay, 1)?, b"real")?;
        assert_eq!(receive(&socket)?, b"real", "{from} {source}");
        let counted = inspect::packets(victim, Hook::UnderlayIngress, outcome)? - before;
        assert_eq!(counted, 1, "{}", outcome.name());
    }
    // Another address of the node, or one of a network that is routed through it.
    send(overlay, overlay.nodes()[1].ip(), ROUTED, b"routed")?;
    assert_eq!(receive(&socket)?, b"routed");
    Ok(())
}

#[test]
fn without_the_source_check_forged_packets_arrive_as_with_flannel() -> TestResult {
    let network =
        r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.63.0","Backend":{"Type":"vxlan","SourceCheck":"off"}}"#;
    let overlay =
        Overlay::start_in(network, Topology::segment(2), &["--dataplane=bpf"; 2], 1, |agent| agent)?;
    let socket = listen(&overlay)?;
    for (from, source, _) in forgeries(&overlay)?.into_iter().take(3) {
        send(&overlay, from, source, b"forged")?;
        assert_eq!(receive(&socket)?, b"forged", "{from} {source}");
    }
    assert_eq!(dropped(&overlay.nodes()[0])?, 0);
    Ok(())
}
