//! VXLAN that anybody on the underlay can send: what reaches a pod of it.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use anyhow::{Result, bail};
use etherparse::{EtherType, IpNumber};
use flannel_agent::mac::Mac;
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::{Node, TestResult, Topology};

use crate::inspect::{self, DEVICE};
use crate::overlay::Overlay;
use crate::packets::{PORT, frame, ipv4, udp, vxlan};

/// Another address on the second node's uplink, which no lease has.
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 168, 64, 77);
/// In the network, and leased by nobody.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 5, 70, 7);
const SERVICE: u16 = 4789;

/// From where, with which inner source, and how it is counted.
type Forgery = (Ipv4Addr, Ipv4Addr, Outcome);

fn forgeries(overlay: &Overlay) -> Result<Vec<Forgery>> {
    let (ours, theirs) = (overlay.base(0)?, overlay.base(1)?);
    let sender = overlay.nodes()[1].ip();
    let host = |base: Ipv4Addr| Ipv4Addr::from(base.to_bits() + 9);
    Ok(vec![
        (STRANGER, host(theirs), Outcome::ForgedSender),
        (STRANGER, STRANGER, Outcome::UnknownSender),
        (sender, NOBODY, Outcome::UnknownSender),
        (sender, host(ours), Outcome::LoopedSender),
    ])
}

/// Sends from the second node to the first one's pod, by hand.
fn send(overlay: &Overlay, from: Ipv4Addr, source: Ipv4Addr, payload: &[u8]) -> Result<()> {
    let [victim, attacker] = overlay.nodes() else { unreachable!("two nodes") };
    let pod = ipv4_of(overlay, 0)?;
    let packet = ipv4(source, pod, IpNumber::UDP, udp(53, SERVICE, payload)).bytes();
    let mac = inspect::link(victim, DEVICE)?.mac.parse::<Mac>()?.0;
    let wrapped = vxlan(8, 1, &frame(mac, [2, 0, 0, 0, 0, 1], EtherType::IPV4, &packet));
    attacker.netns().udp_bind(from.into(), 0)?.send_to(&wrapped, (victim.ip(), PORT))?;
    Ok(())
}

/// The address of a node's pod.
fn ipv4_of(overlay: &Overlay, node: usize) -> Result<Ipv4Addr> {
    match overlay.pods[node][0].ip() {
        IpAddr::V4(ip) => Ok(ip),
        ip => bail!("{ip} is no IPv4 address"),
    }
}

fn receive(socket: &UdpSocket) -> Result<Vec<u8>> {
    let mut buffer = [0; 100];
    let length = socket.recv(&mut buffer)?;
    Ok(buffer[..length].to_vec())
}

fn listen(overlay: &Overlay) -> Result<UdpSocket> {
    overlay.nodes()[1].netns().ip(&[&format!("addr add {STRANGER}/24 dev eth0")])?;
    let pod = &overlay.pods[0][0];
    pod.netns().udp_bind(pod.ip(), SERVICE)
}

fn dropped(node: &Node) -> Result<u64> {
    let outcomes = [Outcome::ForgedSender, Outcome::UnknownSender, Outcome::LoopedSender];
    outcomes.into_iter().map(|outcome| inspect::packets(node, Hook::UnderlayIngress, outcome)).sum()
}

#[test]
fn forged_packets_do_not_reach_a_pod() -> TestResult {
    let overlay = Overlay::start(Topology::segment(2), &["--dataplane=bpf"; 2], 1)?;
    let socket = listen(&overlay)?;
    let victim = &overlay.nodes()[0];
    for (from, source, outcome) in forgeries(&overlay)? {
        let before = inspect::packets(victim, Hook::UnderlayIngress, outcome)?;
        send(&overlay, from, source, b"forged")?;
        // What comes behind it on the same way has come when this has.
        send(&overlay, overlay.nodes()[1].ip(), ipv4_of(&overlay, 1)?, b"real")?;
        assert_eq!(receive(&socket)?, b"real", "{from} {source}");
        let counted = inspect::packets(victim, Hook::UnderlayIngress, outcome)? - before;
        assert_eq!(counted, 1, "{}", outcome.name());
    }
    Ok(())
}

#[test]
fn without_the_check_they_do_as_with_flannel() -> TestResult {
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
