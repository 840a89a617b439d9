//! Packets of one flow, and packets without a flow.

use std::net::Ipv4Addr;

use etherparse::{EtherType, IpNumber, Ipv4Header, TcpHeader};
use flannel_common::address::V4;
use flannel_common::flow::{Flow, FlowKey};
use flannel_common::outcome::Outcome;

use super::row::indifferent;
use super::{PROVEN, Row, flow, moved};
use crate::packets::{Ipv4, frame, ipv4, tcp, udp};

/// A pod of this node, its gateway (the bridge), and its remote pod.
pub(in crate::program) const POD: Ipv4Addr = Ipv4Addr::new(10, 1, 90, 2);
pub(in crate::program) const POD_MAC: [u8; 6] = [2, 0, 0, 0, 90, 2];
pub(in crate::program) const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 90, 1];
pub(in crate::program) const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 1, 15, 7);
const POD_PORT: u16 = 40000;
const REMOTE_PORT: u16 = 53;

/// Returns the flow's key in `FLOWS`.
pub(in crate::program) fn key(IpNumber(protocol): IpNumber) -> FlowKey<V4> {
    let (pod_port, remote_port) = (POD_PORT.to_be_bytes(), REMOTE_PORT.to_be_bytes());
    let protocol = [protocol, 0, 0, 0];
    FlowKey { pod: POD.octets(), remote: REMOTE.octets(), pod_port, remote_port, protocol }
}

/// Whether the pod of this node sends or receives a packet.
#[derive(Clone, Copy)]
pub(in crate::program) enum PodSide {
    Egress,
    Ingress,
}

impl PodSide {
    /// Makes a packet of any protocol.
    pub(in crate::program) fn packet(self, protocol: IpNumber, payload: Vec<u8>) -> Ipv4 {
        let (source, destination) = self.pick((POD, REMOTE), (REMOTE, POD));
        ipv4(source, destination, protocol, payload)
    }

    /// Makes a UDP datagram of the flow.
    pub(in crate::program) fn udp(self, payload: &[u8]) -> Ipv4 {
        let (source, destination) = self.ports();
        self.packet(IpNumber::UDP, udp(source, destination, payload))
    }

    /// Makes a TCP segment of the flow, with a changed header.
    pub(in crate::program) fn tcp(self, change: impl FnOnce(&mut TcpHeader), payload: &[u8]) -> Ipv4 {
        let (source, destination) = self.ports();
        self.packet(IpNumber::TCP, tcp(source, destination, change, payload))
    }

    fn ports(self) -> (u16, u16) {
        self.pick((POD_PORT, REMOTE_PORT), (REMOTE_PORT, POD_PORT))
    }

    fn pick<T>(self, egress: T, ingress: T) -> T {
        match self {
            Self::Egress => egress,
            Self::Ingress => ingress,
        }
    }
}

/// Returns the frame after one router.
pub(in crate::program) fn hop(sent: &[u8], destination: [u8; 6], source: [u8; 6]) -> Vec<u8> {
    let (mut ip, payload) = Ipv4Header::from_slice(&sent[14..]).unwrap();
    ip.time_to_live -= 1;
    let packet = Ipv4 { header: ip, payload: payload.to_vec() };
    frame(destination, source, EtherType::IPV4, &packet.bytes())
}

/// Makes rows of packets without a flow. `framed` adds the Ethernet header of the hook.
pub(in crate::program) fn no_flows(side: PodSide, framed: impl Fn(EtherType, &[u8]) -> Vec<u8>) -> Vec<Row> {
    let good = side.udp(&[7; 64]);
    let packet = |packet: Ipv4| framed(EtherType::IPV4, &packet.bytes());
    let of = |protocol, payload: &[u8]| packet(side.packet(protocol, payload.to_vec()));
    let tagged = [&[0, 5, 8, 0], &good.bytes()[..]].concat();
    let table = [
        ("a ping", of(IpNumber::ICMP, &[8, 0, 0, 0, 0, 1, 0, 1]), Outcome::NotCacheable),
        ("SCTP", of(IpNumber::SCTP, &[0; 32]), Outcome::NotCacheable),
        ("first fragment", packet(good.clone().fragment(0, true)), Outcome::NotCacheable),
        ("later fragment", packet(good.clone().fragment(185, false)), Outcome::NotCacheable),
        ("IP options", packet(good.clone().options([0x94, 4, 0, 0])), Outcome::NotCacheable),
        ("TCP without its flags", of(IpNumber::TCP, &[0; 13]), Outcome::Truncated),
        ("half a UDP header", of(IpNumber::UDP, &[0; 7]), Outcome::Truncated),
        ("ARP", framed(EtherType::ARP, &[0; 28]), Outcome::NotIp),
        ("VLAN tag", framed(EtherType::VLAN_TAGGED_FRAME, &tagged), Outcome::NotIp),
        ("IP version 6 with IPv4's EtherType", framed(EtherType::IPV4, &[0x65; 60]), Outcome::NotIp),
    ];
    let rows = table.iter().map(|(description, frame, outcome)| indifferent(description, frame, *outcome));
    rows.flatten().collect()
}

/// Makes packets that begin or end a TCP connection.
pub(in crate::program) fn controls(side: PodSide) -> [(&'static str, Ipv4); 4] {
    [
        ("SYN", side.tcp(|tcp| (tcp.syn, tcp.ack) = (true, false), b"")),
        ("SYN and ACK", side.tcp(|tcp| tcp.syn = true, b"")),
        ("FIN", side.tcp(|tcp| tcp.fin = true, b"the end")),
        ("RST", side.tcp(|tcp| tcp.rst = true, b"")),
    ]
}

/// Makes proven UDP flows at other ports than [`port`].
pub(in crate::program) fn elsewhere() -> [(&'static str, Flow<V4>); 3] {
    let proven = flow(PROVEN, PROVEN);
    [
        ("another port", moved(proven, |port| port.ifindex = 99)),
        ("another pod's MAC", moved(proven, |port| port.pod_mac[5] ^= 1)),
        ("another gateway's MAC", moved(proven, |port| port.gateway_mac[5] ^= 1)),
    ]
}
