//! Forged VXLAN packets over IPv6, which any host on the underlay can send.

use std::net::{IpAddr, Ipv6Addr, UdpSocket};

use anyhow::{Context as _, Result, bail};
use etherparse::{EtherType, IpNumber};
use flannel_agent::mac::Mac;
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::{TestResult, Topology};

use super::{BPF, DEVICE, DUAL, Overlay, base, start};
use crate::inspect;
use crate::packets::{PORT, frame, ipv6, udp_over_ipv6, vxlan};

/// The underlay's router, which has no lease.
const STRANGER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x192, 0x168, 0x40, 0, 0, 0, 0xfe);
/// An address that a node could lease. It is most unlikely that one of the nodes has.
const UNLEASED: Ipv6Addr = Ipv6Addr::new(0xfd44, 0, 0, 0x777, 0, 0, 0, 7);
const SERVICE: u16 = 4789;

/// Sends a VXLAN packet from the second node, or the router, to the first node's pod.
fn send(overlay: &Overlay, from: IpAddr, source: Ipv6Addr, payload: &[u8]) -> Result<()> {
    send_to(overlay, pod_ip(overlay, 0)?, from, source, payload)
}

/// [`send`] to another address behind the first node.
pub(super) fn send_to(
    overlay: &Overlay,
    pod: Ipv6Addr,
    from: IpAddr,
    source: Ipv6Addr,
    payload: &[u8],
) -> Result<()> {
    let [victim, attacker] = overlay.nodes() else { unreachable!("two nodes") };
    let packet = ipv6(source, pod, IpNumber::UDP, udp_over_ipv6(source, pod, 53, SERVICE, payload)).bytes();
    let device = if from.is_ipv6() { DEVICE } else { inspect::DEVICE };
    let mac = inspect::link(victim, device)?.mac.parse::<Mac>()?.0;
    let wrapped = vxlan(8, 1, &frame(mac, [2, 0, 0, 0, 0, 1], EtherType::IPV6, &packet));
    let to = if from.is_ipv6() { IpAddr::from(victim.ip6()) } else { victim.ip().into() };
    let router = overlay.cluster.fabric().filter(|_| from == STRANGER);
    router.unwrap_or(attacker.netns()).udp_bind(from, 0)?.send_to(&wrapped, (to, PORT))?;
    Ok(())
}

/// Returns a pod's address.
pub(super) fn pod_ip(overlay: &Overlay, node: usize) -> Result<Ipv6Addr> {
    match overlay.pods[node][0].v6()?.ip {
        IpAddr::V6(ip) => Ok(ip),
        ip => bail!("{ip} is no IPv6 address"),
    }
}

fn receive(socket: &UdpSocket) -> Result<Vec<u8>> {
    let mut buffer = [0; 100];
    let length = socket.recv(&mut buffer)?;
    Ok(buffer[..length].to_vec())
}

fn listen(overlay: &Overlay) -> Result<UdpSocket> {
    overlay.pods[0][0].netns().udp_bind(pod_ip(overlay, 0)?.into(), SERVICE)
}

fn near(base: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(base.to_bits() + 9)
}

#[test]
fn forged_packets_do_not_reach_a_pod() -> TestResult {
    ensure_dropped(&start(Topology::segment(2), DUAL, &[BPF; 2])?)
}

/// Fails if a forged packet reaches the first node's pod, or is dropped with the wrong outcome.
pub(super) fn ensure_dropped(overlay: &Overlay) -> TestResult {
    let socket = listen(overlay)?;
    let [victim, attacker] = overlay.nodes() else { unreachable!("two nodes") };
    let (ours, theirs) = (near(base(victim)?), near(base(attacker)?));
    for (from, source, outcome) in [
        (STRANGER.into(), theirs, Outcome::ForgedSender),
        (STRANGER.into(), STRANGER, Outcome::UnknownSender),
        (attacker.ip6().into(), UNLEASED, Outcome::UnknownSender),
        (attacker.ip6().into(), ours, Outcome::LoopedSender),
        // IPv6 must not be sent through the IPv4 tunnel.
        (attacker.ip().into(), theirs, Outcome::ForgedSender),
        (attacker.ip().into(), UNLEASED, Outcome::UnknownSender),
    ] {
        let before = inspect::packets(victim, Hook::UnderlayIngress, outcome)?;
        send(overlay, from, source, b"forged")?;
        // When this valid packet has arrived, the forged one before it would have arrived, too.
        send(overlay, attacker.ip6().into(), pod_ip(overlay, 1)?, b"real")?;
        let received = receive(&socket).with_context(|| format!("after {source} from {from}"))?;
        assert_eq!(received, b"real", "{from} {source}");
        let counted = inspect::packets(victim, Hook::UnderlayIngress, outcome)? - before;
        assert_eq!(counted, 1, "{from} {source}: {}", outcome.name());
    }
    Ok(())
}

#[test]
fn without_the_source_check_forged_packets_arrive_as_with_flannel() -> TestResult {
    let config = DUAL.replace(r#""vxlan""#, r#""vxlan","SourceCheck":"off""#);
    let overlay = start(Topology::segment(2), &config, &[BPF; 2])?;
    let socket = listen(&overlay)?;
    let attacker = &overlay.nodes()[1];
    let theirs = near(base(attacker)?);
    for (from, source) in
        [(STRANGER.into(), theirs), (attacker.ip6().into(), UNLEASED), (attacker.ip().into(), theirs)]
    {
        send(&overlay, from, source, b"forged")?;
        assert_eq!(receive(&socket)?, b"forged", "{from} {source}");
    }
    Ok(())
}
