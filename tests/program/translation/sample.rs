//! Flows that the stack translates, in both families, and their packets. etherparse computes all checksums.

use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder};
use flannel_common::address::{V4, V6};
use flannel_common::flow::{Direction, FlowKey};

use super::super::flow::sample as v4;
use super::super::flow::{Family, FlowNames};
use super::super::{ipv6, v6};

/// MACs of destination and source.
pub(in crate::program) type Macs = ([u8; 6], [u8; 6]);

/// An address family with what services have there.
pub(in crate::program) trait Service: Family {
    const IS_IPV4: bool;
    /// A pod of this node, from whose port its packets come.
    const POD: Self;
    /// The service's own address.
    const SERVICE: Self;
    /// A pod of the peer, behind the service.
    const BACKEND: Self;
    /// An address of this node that stands for its pods.
    const NODE: Self;

    /// Makes an IP header, whose lengths and checksum are set later.
    fn ip(source: Self, destination: Self, ttl: u8) -> IpHeaders;
}

impl Service for V4 {
    const IS_IPV4: bool = true;
    const POD: Self = v4::POD.octets();
    const SERVICE: Self = [10, 96, 0, 10];
    const BACKEND: Self = [10, 1, 15, 9];
    const NODE: Self = [10, 1, 90, 1];

    fn ip(source: Self, destination: Self, ttl: u8) -> IpHeaders {
        let header = Ipv4Header::new(0, ttl, IpNumber::UDP, source, destination).unwrap();
        IpHeaders::Ipv4(header, Default::default())
    }
}

impl Service for V6 {
    const IS_IPV4: bool = false;
    const POD: Self = ipv6::sample::POD.octets();
    const SERVICE: Self = v6([0xfd96, 0x1234, 0, 0, 0, 0, 0, 0xa]);
    const BACKEND: Self = v6([0xfd44, 0, 0, 0x15, 0, 0, 0, 9]);
    const NODE: Self = v6([0xfd44, 0, 0, 0x90, 0, 0, 0, 1]);

    fn ip(source: Self, destination: Self, ttl: u8) -> IpHeaders {
        let header = Ipv6Header { hop_limit: ttl, source, destination, ..Ipv6Header::default() };
        IpHeaders::Ipv6(header, Default::default())
    }
}

/// Makes the name of the flow between two ends.
pub(in crate::program) fn name<A: Service>(
    IpNumber(protocol): IpNumber,
    pod: (A, u16),
    remote: (A, u16),
) -> FlowKey<A> {
    let ((pod, pod_port), (remote, remote_port)) = (pod, remote);
    let (pod_port, remote_port) = (pod_port.to_be_bytes(), remote_port.to_be_bytes());
    FlowKey { pod, remote, pod_port, remote_port, protocol: [protocol, 0, 0, 0] }
}

/// Makes a flow of the pod to the service, behind which the backend is.
pub(in crate::program) fn to_service<A: Service>(protocol: IpNumber) -> FlowNames<A> {
    let pod = (A::POD, 40001);
    let [pod, network] = [(A::SERVICE, 80), (A::BACKEND, 8080)].map(|remote| name(protocol, pod, remote));
    FlowNames { pod, network }
}

/// Makes such a flow for which the node has put its own address and another port before the pod's.
pub(in crate::program) fn masqueraded<A: Service>(protocol: IpNumber) -> FlowNames<A> {
    let pod = name(protocol, (A::POD, 40002), (A::SERVICE, 81));
    let network = name(protocol, (A::NODE, 61003), (A::BACKEND, 8081));
    FlowNames { pod, network }
}

/// Makes a packet of the flow with this name, in a frame.
pub(in crate::program) fn packet<A: Service>(
    (destination, source): Macs,
    name: FlowKey<A>,
    direction: Direction,
    ttl: u8,
    payload: &[u8],
) -> Vec<u8> {
    let pod = (name.pod, u16::from_be_bytes(name.pod_port));
    let remote = (name.remote, u16::from_be_bytes(name.remote_port));
    let ((from, source_port), (to, destination_port)) = match direction {
        Direction::Egress => (pod, remote),
        Direction::Ingress => (remote, pod),
    };
    let ip = PacketBuilder::ethernet2(source, destination).ip(A::ip(from, to, ttl));
    let mut frame = Vec::new();
    if IpNumber(name.protocol[0]) == IpNumber::TCP {
        ip.tcp(source_port, destination_port, 1000, 500).ack(7).write(&mut frame, payload).unwrap();
    } else {
        ip.udp(source_port, destination_port).write(&mut frame, payload).unwrap();
    }
    frame
}
