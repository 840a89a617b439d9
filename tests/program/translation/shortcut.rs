//! Packets of translated flows that skip the stack: they get addresses and ports as the stack would give them. What they must
//! become is built anew by etherparse, with all checksums.

use etherparse::IpNumber;
use flannel_common::address::{V4, V6};
use flannel_common::flow::Direction;
use flannel_common::lease::{DIRECT, Lease};
use flannel_common::outcome::{Hook, Outcome};

use super::super::flow::{FlowNames, PROVEN, check, flow, row};
use super::super::ipv6::underlay::carrying as carrying6;
use super::super::overlay_egress::unwrapped;
use super::super::underlay_ingress::carrying as carrying4;
use super::super::{PEER_IP, PEER_MAC, Programs, ipv6};
use super::sample::{Macs, Service, masqueraded, packet, to_service};
use super::{FROM_LINK, FROM_POD, TO_LINK, TO_POD, from_peer, kinds, to_peer};

/// Makes one frame of another.
type Reframe = fn(&[u8]) -> Vec<u8>;

/// A packet of a flow, before and after its way past the stack.
struct Sample<A: Service> {
    description: &'static str,
    names: FlowNames<A>,
    /// Payload bytes per segment of an aggregate; 0: a single packet.
    gso_size: usize,
    frames: [Vec<u8>; 2],
}

/// One way past the stack.
struct Path<A: Service> {
    programs: Programs,
    hook: Hook,
    direction: Direction,
    /// MACs of a packet before and after.
    macs: [Macs; 2],
    outcome: Outcome,
    /// Wraps the frame as it arrives.
    wrap: Reframe,
    /// Removes from a frame what the program has put before it.
    unwrap: Reframe,
    _family: std::marker::PhantomData<A>,
}

fn plain(frame: &[u8]) -> Vec<u8> {
    frame.to_vec()
}

impl<A: Service> Path<A> {
    fn new(programs: Programs, hook: Hook, direction: Direction, macs: [Macs; 2], outcome: Outcome) -> Self {
        let _family = std::marker::PhantomData;
        Self { programs, hook, direction, macs, outcome, wrap: plain, unwrap: plain, _family }
    }

    /// From the pod into the tunnel.
    fn into_tunnel(programs: Programs) -> Self {
        let (outcome, unwrap): (_, Reframe) = if A::IS_IPV4 {
            (Outcome::Encapsulated, |frame| unwrapped(frame, PEER_IP, 0))
        } else {
            (Outcome::Forwarded, plain)
        };
        let macs = [FROM_POD, to_peer::<A>()];
        Self { unwrap, ..Self::new(programs, Hook::PodEgress, Direction::Egress, macs, outcome) }
    }

    /// From the pod to a peer on the link.
    fn onto_link() -> Self {
        let macs = [FROM_POD, TO_LINK];
        Self::new(on_link(), Hook::PodEgress, Direction::Egress, macs, Outcome::OnLink)
    }

    /// From the tunnel, as the uplink receives it.
    fn out_of_tunnel() -> Self {
        let wrap = if A::IS_IPV4 { carrying4 } else { carrying6 };
        let (programs, macs) = (Programs::with_flow_cache(), [from_peer::<A>(), TO_POD]);
        let path = Self::new(programs, Hook::UnderlayIngress, Direction::Ingress, macs, Outcome::Delivered);
        Self { wrap, ..path }
    }

    /// From the tunnel, unwrapped by the kernel.
    fn unwrapped_by_kernel() -> Self {
        let (programs, macs) = (Programs::with_flow_cache(), [from_peer::<A>(), TO_POD]);
        Self::new(programs, Hook::OverlayIngress, Direction::Ingress, macs, Outcome::Delivered)
    }

    /// From a peer on the link.
    fn from_link() -> Self {
        let macs = [FROM_LINK, TO_POD];
        Self::new(on_link(), Hook::UnderlayIngress, Direction::Ingress, macs, Outcome::Delivered)
    }

    /// Makes a packet of the flow, and what the stack would make of it.
    fn sample(&self, description: &'static str, names: FlowNames<A>, ttl: u8, payload: &[u8]) -> Sample<A> {
        let (before, after) = match self.direction {
            Direction::Egress => (names.pod, names.network),
            Direction::Ingress => (names.network, names.pod),
        };
        let [macs, macs_after] = self.macs;
        let frames = [
            packet(macs, before, self.direction, ttl, payload),
            packet(macs_after, after, self.direction, ttl - 1, payload),
        ];
        Sample { description, names, gso_size: 0, frames }
    }

    /// Checks that packets become others, of proven flows.
    fn check(mut self, table: Vec<Sample<A>>) {
        let mut results = Vec::new();
        let mut rows = Vec::new();
        for Sample { description, names, gso_size, frames: [before, after] } in table {
            let (arrived, known) = ((self.wrap)(&before), names.entries(flow(PROVEN, PROVEN)));
            results.push((arrived.clone(), after));
            rows.push(row(description, arrived, known.clone(), self.outcome, known).gso(gso_size));
        }
        check(&mut self.programs, self.hook, rows, move |run, sent| {
            let (_, expected) = results.iter().find(|(before, _)| before == sent).expect("one of the table");
            assert_eq!((self.unwrap)(&run.packet), *expected);
        });
    }
}

/// Loads the programs, with both peers on the link.
fn on_link() -> Programs {
    let mut programs = Programs::configured(|node| (node.flow_cache, node.direct_routing) = (1, 1));
    programs.lease(
        24,
        [10, 1, 15, 0],
        Lease { public_ip: PEER_IP, vtep_mac: PEER_MAC, flags: DIRECT, route_mtu: 0 },
    );
    let peer = Lease { public_ip: ipv6::PEER_IP, vtep_mac: ipv6::PEER_MAC, flags: DIRECT, route_mtu: 0 };
    programs.lease(64, ipv6::PEER_SUBNET, peer);
    programs
}

/// Checks all kinds of packets on one way.
fn all_kinds<A: Service>(path: Path<A>) {
    let mut table = Vec::new();
    for (kind, names) in kinds() {
        for length in [0, 1, 2, 7, 1000, 1001] {
            let payload: Vec<u8> = (0..length).map(|at: u32| (at * 7 + length) as u8).collect();
            table.push(path.sample(kind, names, 64, &payload));
        }
        table.push(path.sample(kind, names, 2, b"the last hop but one"));
    }
    for (kind, names) in [("UDP", to_service(IpNumber::UDP)), ("masqueraded", masqueraded(IpNumber::UDP))] {
        let Sample { frames, .. } = path.sample(kind, names, 64, b"no checksum");
        table.push(Sample {
            frames: frames.map(without_checksum::<A>),
            description: kind,
            names,
            gso_size: 0,
        });
        // The words of these payloads make the checksum before or afterwards all zeroes, which UDP sends as all ones.
        for frame in path.sample(kind, names, 64, &[0; 2]).frames {
            table.push(path.sample(kind, names, 64, &frame[udp_checksum::<A>()]));
        }
    }
    path.check(table);
}

/// Returns where the UDP checksum is in a frame.
fn udp_checksum<A: Service>() -> std::ops::Range<usize> {
    let header = if A::IS_IPV4 { 20 } else { 40 };
    14 + header + 6..14 + header + 8
}

fn without_checksum<A: Service>(mut frame: Vec<u8>) -> Vec<u8> {
    frame[udp_checksum::<A>()].fill(0);
    frame
}

#[test]
fn an_ipv4_packet_goes_into_the_tunnel_as_to_the_backend() {
    all_kinds(Path::<V4>::into_tunnel(Programs::with_flow_cache()));
}

#[test]
fn an_ipv6_packet_goes_into_the_tunnel_as_to_the_backend() {
    all_kinds(Path::<V6>::into_tunnel(Programs::with_flow_cache()));
}

#[test]
fn a_packet_goes_onto_the_link_as_to_the_backend() {
    all_kinds(Path::<V4>::onto_link());
    all_kinds(Path::<V6>::onto_link());
}

#[test]
fn an_answer_out_of_the_tunnel_reaches_the_pod_as_from_the_service() {
    all_kinds(Path::<V4>::out_of_tunnel());
    all_kinds(Path::<V6>::out_of_tunnel());
}

#[test]
fn an_answer_that_the_kernel_has_unwrapped_reaches_the_pod_as_from_the_service() {
    all_kinds(Path::<V4>::unwrapped_by_kernel());
    all_kinds(Path::<V6>::unwrapped_by_kernel());
}

#[test]
fn an_answer_from_the_link_reaches_the_pod_as_from_the_service() {
    all_kinds(Path::<V4>::from_link());
    all_kinds(Path::<V6>::from_link());
}

/// (A test run cannot give an aggregate's type, and the kernel lets none without grow: none goes into an IPv4 tunnel.)
fn aggregates<A: Service>(path: Path<A>) {
    let table =
        kinds().map(|(kind, names)| Sample { gso_size: 1000, ..path.sample(kind, names, 64, &[0xab; 2900]) });
    path.check(table.into());
}

#[test]
fn an_aggregate_is_translated_as_one() {
    aggregates(Path::<V4>::onto_link());
    aggregates(Path::<V4>::unwrapped_by_kernel());
    aggregates(Path::<V4>::from_link());
    aggregates(Path::<V6>::onto_link());
    aggregates(Path::<V6>::unwrapped_by_kernel());
    aggregates(Path::<V6>::from_link());
    aggregates(Path::<V6>::into_tunnel(Programs::with_flow_cache()));
}
