//! What a flow's entry remembers, so that it is not looked up for each packet: the MTU of the pod's port, and the peer.

use etherparse::{EtherType, IpNumber};
use flannel_common::address::V4;
use flannel_common::flow::{Flow, PORT_NS, Passage, Way};
use flannel_common::outcome::{Hook, Outcome};

use super::flow::sample::PodSide;
use super::flow::{NOW, POD_MTU, PROVEN, Row, at_times, flow, moved, now, of_udp, row};
use super::underlay_ingress::{arrives, carrying, check_unwrapped, from_peer};
use super::{GENERATION, INNER_PEER_IP, OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Programs, UPLINK_MTU, VNI};
use crate::packets::{Ipv4, PORT, frame, ipv4, udp, vxlan};

/// Age of an MTU that is asked for again.
const LONG_AGO: u64 = PORT_NS + PROVEN;
/// A port that does not exist.
const GONE: u32 = 99;

/// A flow whose port had an MTU so long ago.
fn remembered(mtu: usize, age: u64) -> Flow<V4> {
    Flow { port_mtu: mtu as u32, port_asked: age, ..flow(PROVEN, PROVEN) }
}

fn datagram(length: usize) -> Ipv4 {
    PodSide::Ingress.udp(&vec![0; length - 28])
}

#[test]
fn the_mtu_of_a_port_is_remembered_for_a_while() {
    let received = |description, length, before: Flow<V4>, outcome, after: Flow<V4>| -> Row {
        let sent = carrying(&frame(OUR_MAC, PEER_MAC, EtherType::IPV4, &datagram(length).bytes()));
        row(description, sent, of_udp(before), outcome, of_udp(after))
    };
    let same = |description, length, known, outcome| received(description, length, known, outcome, known);
    let gone = |age| moved(remembered(POD_MTU, age), |port| port.ifindex = GONE);
    let asked = remembered(POD_MTU, NOW);
    check_unwrapped(
        &mut Programs::with_flow_cache(),
        vec![
            same("as long as it was", 1000, remembered(1000, PROVEN), Outcome::Delivered),
            same("longer than it was", 1001, remembered(1000, PROVEN), Outcome::Decapsulated),
            received("never asked", 1001, flow(PROVEN, PROVEN), Outcome::Delivered, asked),
            received("asked long ago", 1001, remembered(1000, LONG_AGO), Outcome::Delivered, asked),
            same("a port that was there a moment ago", 100, gone(PROVEN), Outcome::Delivered),
            same("a port that is gone", 100, gone(LONG_AGO), Outcome::Decapsulated),
        ],
    );
}

/// A flow with this peer, whose packets from the pod were proven in this generation.
fn with_peer(public_ip: [u8; 4], generation: u32) -> Flow<V4> {
    let way = Way { public_ip, vtep_mac: PEER_MAC, mtu: UPLINK_MTU, ..Way::default() };
    let mut flow = Flow { way, ..flow(PROVEN, PROVEN) };
    flow.egress.generation = generation;
    flow
}

#[test]
fn the_peer_of_a_proven_flow_is_accepted_and_no_other() {
    // The lease says PEER_IP. That of INNER_PEER_IP would have changed in this generation, and ends proofs a moment later.
    let mut programs = Programs::with_flow_cache();
    for (description, peer, generation, outcome) in [
        ("the holder of the lease", PEER_IP, GENERATION, Outcome::Delivered),
        ("the holder, with a peer of another generation", INNER_PEER_IP, GENERATION - 1, Outcome::Delivered),
        ("another peer than the sender", INNER_PEER_IP, GENERATION, Outcome::Delivered),
    ] {
        let known = of_udp(with_peer(peer, generation));
        check_unwrapped(&mut programs, vec![from_peer(description, &datagram(100), known, outcome)]);
    }
    let inner = frame(OUR_MAC, PEER_MAC, EtherType::IPV4, &datagram(100).bytes());
    let outer = udp(41000, PORT, &vxlan(8, VNI, &inner));
    let from_another = arrives(&ipv4(INNER_PEER_IP.into(), OUR_IP.into(), IpNumber::UDP, outer));
    for (description, known, outcome) in [
        ("no flow", None, Outcome::ForgedSender),
        ("the lease's holder is the peer", Some(with_peer(PEER_IP, GENERATION)), Outcome::ForgedSender),
        (
            "a peer of another generation",
            Some(with_peer(INNER_PEER_IP, GENERATION - 1)),
            Outcome::ForgedSender,
        ),
        (
            "no packet from the pod",
            Some(Flow { egress: Passage::default(), ..with_peer(INNER_PEER_IP, 0) }),
            Outcome::ForgedSender,
        ),
        ("the sender is the peer", Some(with_peer(INNER_PEER_IP, GENERATION)), Outcome::Decapsulated),
    ] {
        // To a port that is gone: what follows the check does not matter here.
        let known = known.map(|known| of_udp(moved(known, |port| port.ifindex = GONE))).unwrap_or_default();
        let start = now();
        programs.set_flows(&at_times(known, |age| start - age));
        let run = programs.run(Hook::UnderlayIngress, &from_another, 0);
        assert_eq!(run.outcome, outcome, "{description}");
    }
}
