//! Packets of one flow.

use std::net::Ipv6Addr;

use etherparse::{EtherType, IpNumber, Ipv6Header};
use flannel_common::address::V6;
use flannel_common::flow::{Flow, FlowKey};

use super::super::flow::{FlowNames, Flows};
use crate::packets::{Ipv6, frame, ipv6, tcp, udp_over_ipv6};

/// A pod of this node, and its remote pod.
pub(in crate::program) const POD: Ipv6Addr = Ipv6Addr::new(0xfd44, 0, 0, 0x90, 0, 0, 0, 2);
pub(in crate::program) const REMOTE: Ipv6Addr = Ipv6Addr::new(0xfd44, 0, 0, 0x15, 0, 0, 0, 7);
const POD_PORT: u16 = 40000;
const REMOTE_PORT: u16 = 53;

/// Returns the flow's key in `FLOWS6`.
pub(in crate::program) fn key(IpNumber(protocol): IpNumber) -> FlowKey<V6> {
    let (pod_port, remote_port) = (POD_PORT.to_be_bytes(), REMOTE_PORT.to_be_bytes());
    let protocol = [protocol, 0, 0, 0];
    FlowKey { pod: POD.octets(), remote: REMOTE.octets(), pod_port, remote_port, protocol }
}

pub(super) fn of_udp(flow: Flow<V6>) -> Flows<V6> {
    FlowNames::same(key(IpNumber::UDP)).entries(flow)
}

pub(super) fn of_tcp(flow: Flow<V6>) -> Flows<V6> {
    FlowNames::same(key(IpNumber::TCP)).entries(flow)
}

/// Makes a packet from the pod.
pub(in crate::program) fn out(protocol: IpNumber, payload: Vec<u8>) -> Ipv6 {
    ipv6(POD, REMOTE, protocol, payload)
}

/// Makes a packet to the pod.
pub(in crate::program) fn back(protocol: IpNumber, payload: Vec<u8>) -> Ipv6 {
    ipv6(REMOTE, POD, protocol, payload)
}

/// Makes the flow's UDP datagram from the pod.
pub(in crate::program) fn udp_out(payload: &[u8]) -> Ipv6 {
    out(IpNumber::UDP, udp_over_ipv6(POD, REMOTE, POD_PORT, REMOTE_PORT, payload))
}

/// Makes the flow's UDP datagram to the pod.
pub(in crate::program) fn udp_back(payload: &[u8]) -> Ipv6 {
    back(IpNumber::UDP, udp_over_ipv6(REMOTE, POD, REMOTE_PORT, POD_PORT, payload))
}

/// Makes the flow's TCP segment from the pod.
pub(in crate::program) fn tcp_out(payload: &[u8]) -> Ipv6 {
    out(IpNumber::TCP, tcp(POD_PORT, REMOTE_PORT, |_| {}, payload))
}

/// Makes the flow's TCP segment to the pod.
pub(in crate::program) fn tcp_back(payload: &[u8]) -> Ipv6 {
    back(IpNumber::TCP, tcp(REMOTE_PORT, POD_PORT, |_| {}, payload))
}

/// Returns the frame after one router.
pub(super) fn hop(sent: &[u8], destination: [u8; 6], source: [u8; 6]) -> Vec<u8> {
    let (mut header, payload) = Ipv6Header::from_slice(&sent[14..]).unwrap();
    header.hop_limit -= 1;
    frame(destination, source, EtherType::IPV6, &Ipv6 { header, payload: payload.to_vec() }.bytes())
}

/// Makes packets without a flow: neither TCP nor UDP follows the IP header.
pub(in crate::program) fn no_flows(packet: Ipv6, ping: Ipv6) -> [(&'static str, Ipv6); 5] {
    const EXTENSION: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];
    [
        ("a ping", ping),
        ("hop-by-hop options", packet.clone().extended(0, EXTENSION.to_vec())),
        ("destination options", packet.clone().extended(60, EXTENSION.to_vec())),
        ("first fragment", packet.clone().extended(44, vec![0, 0, 0, 1, 0, 0, 0, 1])),
        ("later fragment", packet.extended(44, vec![0, 0, 1, 0, 0, 0, 0, 1])),
    ]
}
