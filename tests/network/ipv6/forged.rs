//! VXLAN over IPv6 that anybody on the underlay can send: what reaches a pod of it.

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
/// In the network, and leased by nobody.
const NOBODY: Ipv6Addr = Ipv6Addr::new(0xfd44, 0, 0, 0x7777, 0, 0, 0, 7);
const SERVICE: u16 = 4789;

/// Sends from the second node, or the router, to the first one's pod, by hand.
fn send(overlay: &Overlay, from: IpAddr, source: Ipv6Addr, payload: &[u8]) -> Result<()> {
    let [victim, attacker] = overlay.nodes() else { unreachable!("two nodes") };
    let pod = pod_ip(overlay, 0)?;
    let packet = ipv6(source, pod, IpNumber::UDP, udp_over_ipv6(source, pod, 53, SERVICE, payload)).bytes();
    let device = if from.is_ipv6() { DEVICE } else { inspect::DEVICE };
    let mac = inspect::link(victim, device)?.mac.parse::<Mac>()?.0;
    let wrapped = vxlan(8, 1, &frame(mac, [2, 0, 0, 0, 0, 1], EtherType::IPV6, &packet));
    let to = if from.is_ipv6() { IpAddr::from(victim.ip6()) } else { victim.ip().into() };
    let stranger = overlay.cluster.fabric().filter(|_| from == STRANGER);
    stranger.unwrap_or(attacker.netns()).udp_bind(from, 0)?.send_to(&wrapped, (to, PORT))?;
    Ok(())
}

fn pod_ip(overlay: &Overlay, node: usize) -> Result<Ipv6Addr> {
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
    let overlay = start(Topology::segment(2), DUAL, &[BPF; 2])?;
    let socket = listen(&overlay)?;
    let [victim, attacker] = overlay.nodes() else { unreachable!("two nodes") };
    let (ours, theirs) = (near(base(victim)?), near(base(attacker)?));
    for (from, source, outcome) in [
        (STRANGER.into(), theirs, Outcome::ForgedSender),
        (STRANGER.into(), STRANGER, Outcome::UnknownSender),
        (attacker.ip6().into(), NOBODY, Outcome::UnknownSender),
        (attacker.ip6().into(), ours, Outcome::LoopedSender),
        // Nobody may send IPv6 through the tunnel of IPv4.
        (attacker.ip().into(), theirs, Outcome::ForgedSender),
        (attacker.ip().into(), NOBODY, Outcome::UnknownSender),
    ] {
        let before = inspect::packets(victim, Hook::UnderlayIngress, outcome)?;
        send(&overlay, from, source, b"forged")?;
        // What comes behind it on the same way has come when this has.
        send(&overlay, attacker.ip6().into(), pod_ip(&overlay, 1)?, b"real")?;
        let received = receive(&socket).with_context(|| format!("after {source} from {from}"))?;
        assert_eq!(received, b"real", "{from} {source}");
        let counted = inspect::packets(victim, Hook::UnderlayIngress, outcome)? - before;
        assert_eq!(counted, 1, "{from} {source}: {}", outcome.name());
    }
    Ok(())
}

#[test]
fn without_the_check_they_do_as_with_flannel() -> TestResult {
    let config = DUAL.replace(r#""vxlan""#, r#""vxlan","SourceCheck":"off""#);
    let overlay = start(Topology::segment(2), &config, &[BPF; 2])?;
    let socket = listen(&overlay)?;
    let attacker = &overlay.nodes()[1];
    let theirs = near(base(attacker)?);
    for (from, source) in
        [(STRANGER.into(), theirs), (attacker.ip6().into(), NOBODY), (attacker.ip().into(), theirs)]
    {
        send(&overlay, from, source, b"forged")?;
        assert_eq!(receive(&socket)?, b"forged", "{from} {source}");
    }
    Ok(())
}
