//! Events from the programs to the agent.

use std::time::Instant;

use etherparse::{EtherType, IpNumber};
use flannel_common::address::Address as _;
use flannel_common::event::{self, Event};
use flannel_common::outcome::{Hook, Outcome};

use super::{OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Programs, SkbMeta, VNI};
use crate::packets::{PORT, frame, ipv4, ipv6, udp, vxlan};

const POD: [u8; 4] = [10, 1, 90, 2];
const NOT_LEASED: [u8; 4] = [10, 1, 99, 1];
const UNKNOWN_NODE: [u8; 4] = [192, 168, 64, 66];

fn to(destination: [u8; 4]) -> Vec<u8> {
    let packet = ipv4(POD.into(), destination.into(), IpNumber::UDP, udp(53, 40000, b"payload"));
    frame(PEER_MAC, OUR_MAC, EtherType::IPV4, &packet.bytes())
}

fn from(node: [u8; 4], pod: [u8; 4]) -> Vec<u8> {
    let inner = ipv4(pod.into(), POD.into(), IpNumber::UDP, udp(53, 40000, b"payload"));
    let inner = frame(OUR_MAC, PEER_MAC, EtherType::IPV4, &inner.bytes());
    let outer = ipv4(node.into(), OUR_IP.into(), IpNumber::UDP, udp(41000, PORT, &vxlan(8, VNI, &inner)));
    frame([0; 6], [2, 0, 0, 0, 0, 9], EtherType::IPV4, &outer.bytes())
}

/// Returns the events of one packet.
fn events_of(hook: Hook, frame: &[u8]) -> Vec<Event> {
    let mut programs = Programs::with_flow_cache();
    programs.run(hook, frame, 0);
    programs.events()
}

#[test]
fn a_packet_to_an_address_that_is_not_leased_makes_an_event() {
    let event = Event { outcome: Outcome::Unleased, pod: NOT_LEASED.mapped(), node: [0; 16] };
    for hook in [Hook::OverlayEgress, Hook::PodEgress] {
        assert_eq!(events_of(hook, &to(NOT_LEASED)), [event]);
        for other in [[10, 1, 15, 7], [10, 1, 90, 9], [203, 0, 113, 1], [255; 4]] {
            assert_eq!(events_of(hook, &to(other)), [], "{other:?}");
        }
    }
    let not_leased = [0xfd, 0x44, 0, 0, 0, 0, 0, 0x99, 0, 0, 0, 0, 0, 0, 0, 1];
    let packet =
        ipv6([0xfd; 16].into(), not_leased.into(), IpNumber::UDP, udp(53, 40000, b"payload")).bytes();
    let event = Event { pod: not_leased, ..event };
    assert_eq!(events_of(Hook::PodEgress, &frame(PEER_MAC, OUR_MAC, EtherType::IPV6, &packet)), [event]);
}

#[test]
fn a_packet_that_the_sender_check_drops_makes_an_event() {
    for (node, pod, outcome) in [
        (UNKNOWN_NODE, [10, 1, 15, 7], Outcome::ForgedSender),
        (PEER_IP, NOT_LEASED, Outcome::UnknownSender),
        (PEER_IP, [10, 1, 90, 7], Outcome::LoopedSender),
    ] {
        let event = Event { outcome, pod: pod.mapped(), node: node.mapped() };
        assert_eq!(events_of(Hook::UnderlayIngress, &from(node, pod)), [event]);
    }
    assert_eq!(events_of(Hook::UnderlayIngress, &from(PEER_IP, [10, 1, 15, 7])), []);
    let mut programs = Programs::load();
    let meta = SkbMeta { unchecked: true, ..SkbMeta::default() };
    programs.run_with(Hook::OverlayIngress, &to(NOT_LEASED), meta);
    let event = Event { outcome: Outcome::UncheckedSender, pod: POD.mapped(), node: [0; 16] };
    assert_eq!(programs.events(), [event]);
}

#[test]
fn a_flood_of_packets_makes_few_events() {
    const FLOOD: u32 = 20_000;
    let (mut programs, start) = (Programs::with_flow_cache(), Instant::now());
    programs.flood(Hook::PodEgress, &to(NOT_LEASED), FLOOD);
    // The ring has room for a thousand events.
    let windows = start.elapsed().as_nanos() / u128::from(event::WINDOW_NS) + 2;
    let most = windows * u128::from(event::BUDGET) * aya::util::nr_cpus().unwrap() as u128;
    let events = programs.events().len();
    assert!(events > 0 && events as u128 <= most, "{events} events, {most} at most");
    assert!(most < u128::from(FLOOD) / 10, "the test took too long to be conclusive");
}
