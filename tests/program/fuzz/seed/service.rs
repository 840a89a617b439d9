//! Good packets of flows that the stack translates, before and after.

use flannel_common::flow::{Direction, FlowKey};
use flannel_common::outcome::Hook;

use super::super::frame::is_from_pod;
use super::super::translated;
use super::{HOST_MAC, ROUTER_MAC};
use crate::program::flow::sample::{GATEWAY_MAC, POD_MAC};
use crate::program::translation::sample::{Service, packet};
use crate::program::{OUR_MAC, OUR_MAC6, PEER_MAC, ipv6};

/// Returns all of them in one family. `wrapped` puts a frame into tunnels.
pub(super) fn all<A: Service>(on_link: A, wrapped: impl Fn(&[u8]) -> Vec<Vec<u8>>) -> Vec<(Hook, Vec<u8>)> {
    let (ours, peers) = if A::IS_IPV4 { (OUR_MAC, PEER_MAC) } else { (OUR_MAC6, ipv6::PEER_MAC) };
    let hooks = [
        (Hook::PodEgress, (GATEWAY_MAC, POD_MAC)),
        (Hook::OverlayEgress, (peers, ours)),
        (Hook::UnderlayEgress, (ROUTER_MAC, HOST_MAC)),
        (Hook::UnderlayIngress, (HOST_MAC, ROUTER_MAC)),
        (Hook::OverlayIngress, (ours, peers)),
        (Hook::PodIngress, (POD_MAC, GATEWAY_MAC)),
    ];
    let mut all = Vec::new();
    for names in translated(on_link) {
        for (hook, macs) in hooks {
            let is_pods = matches!(hook, Hook::PodEgress | Hook::PodIngress);
            let name = if is_pods { names.pod } else { names.network };
            all.push((hook, one(hook, macs, name, b"payload")));
            all.push((hook, one(hook, macs, name, &[0xab; 1001])));
        }
        let inner = one(Hook::OverlayIngress, (ours, peers), names.network, b"payload");
        all.extend(wrapped(&inner).into_iter().map(|frame| (Hook::UnderlayIngress, frame)));
    }
    all
}

fn one<A: Service>(hook: Hook, macs: ([u8; 6], [u8; 6]), name: FlowKey<A>, payload: &[u8]) -> Vec<u8> {
    let direction = if is_from_pod(hook) { Direction::Egress } else { Direction::Ingress };
    packet(macs, name, direction, 64, payload)
}
