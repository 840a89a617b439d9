//! What the programs know of flows, for people.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use flannel_common::address::{V4, V6};
use flannel_common::flow::{Direction, Flow, FlowKey, Names, Passage};
use flannel_common::lease::DIRECT;
use flannel_common::node::NodeConfig;

use super::super::attach::interface_name;
use super::super::dry_run::node;
use super::super::family::MapFamily;
use super::super::{clock, pins::Pins};
use super::each;

/// Nanoseconds in a millisecond, in which the agent tells programs how long proofs hold.
const MS: u64 = 1_000_000;

/// A flow of a pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedFlow {
    /// IP protocol number.
    pub protocol: u8,
    /// The pod's address and port.
    pub pod: SocketAddr,
    /// Where the pod sends to: another pod, or a service.
    pub remote: SocketAddr,
    /// What the host makes of [`Self::remote`], if it translates that: the pod behind a service.
    pub behind: Option<SocketAddr>,
    /// What the other end sees of the pod, if the host translates that.
    pub seen_as: Option<SocketAddr>,
    /// The node of the other end, once a packet to it has left the stack.
    pub peer: Option<IpAddr>,
    /// Without a tunnel.
    pub on_link: bool,
    /// The name of the pod's port at its bridge, as long as it is there.
    pub port: Option<String>,
    /// From the pod.
    pub sent: Passed,
    /// To the pod.
    pub received: Passed,
}

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// No packet has passed the host stack.
    Never,
    /// Packets skip the host stack: so many milliseconds ago one has passed it unchanged but for addresses and ports.
    Proven(u64),
    /// The next packet passes the host stack: the last one did so long ago, or something has changed since.
    Expired(u64),
    /// All packets pass the host stack: so many milliseconds ago it has changed or made one.
    Changed(u64),
}

impl Passed {
    /// Returns its name, and how many milliseconds ago a packet has left the host stack.
    #[must_use]
    pub const fn parts(self) -> (&'static str, Option<u64>) {
        match self {
            Self::Never => ("never", None),
            Self::Proven(ago) => ("proven", Some(ago)),
            Self::Expired(ago) => ("expired", Some(ago)),
            Self::Changed(ago) => ("changed", Some(ago)),
        }
    }
}

/// Lists the flows of an overlay by pod, protocol and other end.
///
/// # Errors
/// No maps, or maps of another layout, are pinned, or cannot be read; or the programs' clock cannot be read.
pub fn list(pins: &Pins) -> Result<Vec<ListedFlow>> {
    let (node, now) = (node(pins)?, clock::now(pins)?);
    let mut flows = Vec::new();
    each::<V4>(pins, |key, flow| flows.extend(listed(&node, now, key, flow)))?;
    each::<V6>(pins, |key, flow| flows.extend(listed(&node, now, key, flow)))?;
    flows.sort_unstable_by_key(|flow| (flow.pod, flow.protocol, flow.remote));
    Ok(flows)
}

/// Returns the flow, if this entry has the pod's name for it.
fn listed<A: MapFamily>(node: &NodeConfig, now: u64, key: &FlowKey<A>, flow: &Flow<A>) -> Option<ListedFlow> {
    flow.names.include(Names::POD).then(|| of_entry(node, now, key, flow))
}

/// Returns the flow of an entry, which has either name for it.
pub(in crate::dataplane::bpf) fn of_entry<A: MapFamily>(
    node: &NodeConfig,
    now: u64,
    key: &FlowKey<A>,
    flow: &Flow<A>,
) -> ListedFlow {
    let (pod_name, network_name) = match flow.names {
        Names::BOTH => (key, key),
        Names::NETWORK => (&flow.other, key),
        _ => (key, &flow.other),
    };
    let ((pod, remote), (other_pod, other_remote)) = (ends(pod_name), ends(network_name));
    let peer = flow.way.public_ip.ip();
    let passed = |direction, passage: &Passage| {
        let milliseconds = now.saturating_sub(passage.left) / MS;
        if passage.left == 0 {
            Passed::Never
        } else if passage.is_changed(now) {
            Passed::Changed(milliseconds)
        } else if passage.is_proven(now, lifetime(node, key, flow, direction), node.generation) {
            Passed::Proven(milliseconds)
        } else {
            Passed::Expired(milliseconds)
        }
    };
    ListedFlow {
        protocol: key.protocol[0],
        pod,
        remote,
        behind: Some(other_remote).filter(|behind| *behind != remote),
        seen_as: Some(other_pod).filter(|seen| *seen != pod),
        peer: Some(peer).filter(|peer| !peer.is_unspecified()),
        on_link: flow.way.flags & DIRECT != 0,
        port: interface_name(flow.port.ifindex),
        sent: passed(Direction::Egress, &flow.egress),
        received: passed(Direction::Ingress, &flow.ingress),
    }
}

fn ends<A: MapFamily>(key: &FlowKey<A>) -> (SocketAddr, SocketAddr) {
    let end = |address: A, port| SocketAddr::new(address.ip(), u16::from_be_bytes(port));
    (end(key.pod, key.pod_port), end(key.remote, key.remote_port))
}

/// Returns how long the programs take a proof of this direction for one, in nanoseconds.
fn lifetime<A: MapFamily>(node: &NodeConfig, key: &FlowKey<A>, flow: &Flow<A>, direction: Direction) -> u64 {
    let is_tcp = i32::from(key.protocol[0]) == libc::IPPROTO_TCP;
    let translated = u64::from(node.translated_proof) * MS;
    match direction {
        _ if flow.names == Names::BOTH => {
            u64::from(if is_tcp { node.tcp_proof } else { node.udp_proof }) * MS
        }
        Direction::Egress => translated,
        Direction::Ingress => flow.ingress.lifetime_after(&flow.egress, translated),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000 * MS;
    const GENERATION: u32 = 3;

    fn node() -> NodeConfig {
        NodeConfig {
            generation: GENERATION,
            tcp_proof: 10_000,
            udp_proof: 5_000,
            translated_proof: 1_000,
            ..NodeConfig::default()
        }
    }

    fn passage(milliseconds_ago: u64, generation: u32) -> Passage {
        Passage { left: NOW - milliseconds_ago * MS, mark: 0, generation }
    }

    fn key(protocol: u8, remote: V4, port: u16) -> FlowKey<V4> {
        FlowKey {
            pod: [10, 5, 1, 2],
            remote,
            pod_port: 40_000_u16.to_be_bytes(),
            remote_port: port.to_be_bytes(),
            protocol: [protocol, 0, 0, 0],
        }
    }

    #[test]
    fn a_direction_is_as_the_programs_take_it() {
        let key = key(17, [10, 5, 2, 2], 53);
        for (egress, expected) in [
            (Passage::default(), Passed::Never),
            (passage(4_999, GENERATION), Passed::Proven(4_999)),
            (passage(5_000, GENERATION), Passed::Expired(5_000)),
            (passage(1, GENERATION - 1), Passed::Expired(1)),
            (passage(9_999, 0), Passed::Changed(9_999)),
        ] {
            let flow = Flow { egress, other: key, names: Names::BOTH, ..Flow::default() };
            let listed = listed(&node(), NOW, &key, &flow).unwrap();
            assert_eq!((listed.sent, listed.received), (expected, Passed::Never), "{egress:?}");
            assert_eq!((listed.behind, listed.seen_as, listed.peer), (None, None, None));
        }
    }

    #[test]
    fn a_flow_to_a_service_is_listed_once_with_the_pod_behind_it() {
        let (service, behind) = (key(6, [10, 96, 0, 1], 80), key(6, [10, 5, 2, 2], 8080));
        let mut flow = Flow {
            egress: passage(1_500, GENERATION),
            ingress: passage(1_400, GENERATION),
            other: behind,
            names: Names::POD,
            ..Flow::default()
        };
        flow.way.public_ip = [192, 168, 64, 2];
        let listed_flow = listed(&node(), NOW, &service, &flow).unwrap();
        assert_eq!(listed_flow.remote, "10.96.0.1:80".parse().unwrap());
        assert_eq!(listed_flow.behind, "10.5.2.2:8080".parse().ok());
        assert_eq!((listed_flow.seen_as, listed_flow.peer), (None, "192.168.64.2".parse().ok()));
        // Answers follow the questions.
        assert_eq!((listed_flow.sent, listed_flow.received), (Passed::Expired(1_500), Passed::Proven(1_400)));
        let network = Flow { other: service, names: Names::NETWORK, ..flow };
        assert_eq!(listed(&node(), NOW, &behind, &network), None);
        assert_eq!(of_entry(&node(), NOW, &behind, &network), listed_flow);
    }
}
