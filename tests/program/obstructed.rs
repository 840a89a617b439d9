//! What is left to the floor because others must see it: no program wraps, or none unwraps.

use etherparse::EtherType;
use flannel_common::node::{FLOOR_UNWRAPS, FLOOR_WRAPS, XDP_NATIVE};
use flannel_common::outcome::{Hook, Outcome};

use super::flow::sample::{GATEWAY_MAC, POD_MAC, PodSide};
use super::flow::{PROVEN, check, flow, of_udp, row};
use super::underlay_ingress::{carrying, inner, other_traffic};
use super::underlay_xdp::{self, all_passed_on};
use super::{OUR_MAC, PEER_MAC, Programs, all_untouched, carried, untouched};
use crate::packets::frame;

#[test]
fn packets_into_the_overlay_are_left_to_the_kernel_device() {
    let packet = PodSide::Egress.udp(b"payload").bytes();
    let routed = frame(PEER_MAC, OUR_MAC, EtherType::IPV4, &packet);
    let mut programs = Programs::configured(|node| node.floor = FLOOR_WRAPS);
    let obstructed = vec![untouched("a routed packet", routed.clone(), Outcome::Obstructed)];
    all_untouched(&mut programs, Hook::OverlayEgress, obstructed);
    let run = programs.run(Hook::UnderlayIngress, &carrying(&inner()), 0);
    carried(&run, Outcome::Decapsulated, "it is unwrapped as ever");

    let mut programs = Programs::configured(|node| (node.floor, node.flow_cache) = (FLOOR_WRAPS, 1));
    let sent = frame(GATEWAY_MAC, POD_MAC, EtherType::IPV4, &packet);
    let proven = of_udp(flow(PROVEN, PROVEN));
    let table = vec![row("a proven flow", sent, proven.clone(), Outcome::Obstructed, proven)];
    check(&mut programs, Hook::PodEgress, table, |_, _| panic!("it is not carried"));
}

#[test]
fn packets_of_the_uplink_are_left_to_the_kernel_device() {
    let obstructed = || vec![untouched("a packet from a peer", carrying(&inner()), Outcome::Obstructed)];
    let mut programs = Programs::configured(|node| node.floor = FLOOR_UNWRAPS);
    all_untouched(&mut programs, Hook::UnderlayIngress, obstructed());
    all_untouched(&mut programs, Hook::UnderlayIngress, other_traffic());
    let routed = frame(PEER_MAC, OUR_MAC, EtherType::IPV4, &PodSide::Egress.udp(b"payload").bytes());
    carried(&programs.run(Hook::OverlayEgress, &routed, 0), Outcome::Encapsulated, "it is wrapped as ever");

    let mut in_driver = underlay_xdp::configured(|node| (node.floor, node.xdp) = (FLOOR_UNWRAPS, XDP_NATIVE));
    all_passed_on(&mut in_driver, obstructed());
}
