//! Tables for the flow cache: a packet, what `FLOWS` and `ENTERED` hold before the run, and what they hold afterwards.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie};
use aya::programs::Program;
use aya::{Ebpf, Pod};
use etherparse::IpNumber;
use flannel_agent::dataplane::bpf::clock;
use flannel_common::abi;
use flannel_common::address::{Address, V4, V6};
use flannel_common::flow::{Flow, FlowKey, Names, PROOF_NS, Passage, Port, TRANSIT_NS, Way};
use flannel_common::lease::{DIRECT, Lease};

use super::{GENERATION, Programs, UPLINK_MTU, load, of_family};
pub(super) use row::{Row, check, check_off, row};
use sample::{GATEWAY_MAC, POD_MAC, key};

pub(super) mod in_stack;
mod row;
pub(super) mod sample;

/// Times in the tables are ages in nanoseconds at the start of the run. This stands for a time that the run wrote.
pub(super) const NOW: u64 = u64::MAX;
const MOMENT: u64 = 10_000_000;
/// Age of the proof of a direction that no packet has passed.
pub(super) const UNKNOWN: u64 = 0;
/// Age of a proof that holds, and of a packet that may still be in the stack.
pub(super) const PROVEN: u64 = MOMENT;
/// Age of a proof that has expired.
pub(super) const OLD: u64 = PROOF_NS + MOMENT;
/// Age of a packet that can no longer be in the stack.
pub(super) const LOST: u64 = TRANSIT_NS + MOMENT;

/// An address family, for the programs' maps and the frames' fields.
pub(super) trait Family: Address + Pod + for<'a> TryFrom<&'a [u8]> {}

impl Family for V4 {}
impl Family for V6 {}

/// Makes what is known of a flow: when packets last left the stack, from the pod and to it.
pub(super) fn flow<A: Address>(egress: u64, ingress: u64) -> Flow<A> {
    let passage = |left| Passage { left, mark: 0, generation: if left == UNKNOWN { 0 } else { GENERATION } };
    Flow { egress: passage(egress), ingress: passage(ingress), port: port(), ..Flow::default() }
}

/// MAC of the next hop of packets without a tunnel.
pub(super) const NEIGHBOUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// MTU of the pod's bridge port, in bytes.
pub(super) const POD_MTU: usize = 1450;

/// Returns the pod's bridge port, which is loopback in a test run.
fn port() -> Port {
    Port { ifindex: 1, pod_mac: POD_MAC, gateway_mac: GATEWAY_MAC }
}

/// Changes the pod's port.
pub(super) fn moved<A: Address>(mut flow: Flow<A>, change: impl FnOnce(&mut Port)) -> Flow<A> {
    change(&mut flow.port);
    flow
}

/// Sets the flow's groups, from the pod and to it.
pub(super) fn grouped<A: Address>(mut flow: Flow<A>, [egress, ingress]: [u32; 2]) -> Flow<A> {
    (flow.egress.mark, flow.ingress.mark) = (egress, ingress);
    flow
}

/// Sets that the stack has changed a packet, from the pod and to it.
pub(super) fn changed<A: Address>(mut flow: Flow<A>, [egress, ingress]: [bool; 2]) -> Flow<A> {
    for (passage, changed) in [(&mut flow.egress, egress), (&mut flow.ingress, ingress)] {
        if changed {
            passage.generation = 0;
        }
    }
    flow
}

/// Sets the generation in which the flow's directions were proven, but for those that no packet has passed.
pub(super) fn of_generation<A: Address>(mut flow: Flow<A>, generation: u32) -> Flow<A> {
    for passage in [&mut flow.egress, &mut flow.ingress] {
        if passage.left != UNKNOWN {
            passage.generation = generation;
        }
    }
    flow
}

/// Contents of `FLOWS`.
pub(super) type Flows<A = V4> = BTreeMap<FlowKey<A>, Flow<A>>;

pub(super) fn none<A: Address>() -> Flows<A> {
    Flows::new()
}

pub(super) fn of_udp(flow: Flow<V4>) -> Flows {
    FlowNames::same(key(IpNumber::UDP)).entries(flow)
}

pub(super) fn of_tcp(flow: Flow<V4>) -> Flows {
    FlowNames::same(key(IpNumber::TCP)).entries(flow)
}

/// The names of a flow: they differ if the stack translates it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FlowNames<A: Address> {
    /// What the pod sends to, and gets answers from.
    pub(super) pod: FlowKey<A>,
    /// What the other node sees.
    pub(super) network: FlowKey<A>,
}

impl<A: Address> FlowNames<A> {
    /// Makes the names of a flow that is not translated.
    pub(super) const fn same(name: FlowKey<A>) -> Self {
        Self { pod: name, network: name }
    }

    /// Returns the entries of the flow, of which this is known.
    pub(super) fn entries(self, flow: Flow<A>) -> Flows<A> {
        let Self { pod, network } = self;
        if pod == network {
            return Flows::from([(pod, entry(pod, Names::BOTH, pod, flow))]);
        }
        Flows::from([
            (pod, entry(pod, Names::POD, network, flow)),
            (network, entry(network, Names::NETWORK, pod, flow)),
        ])
    }
}

/// Makes the entry whose key is `name`.
fn entry<A: Address>(name: FlowKey<A>, names: Names, other: FlowKey<A>, flow: Flow<A>) -> Flow<A> {
    let sums = [name, other].map(|FlowKey { pod, remote, pod_port, remote_port, .. }| {
        (sum(&[pod.as_ref(), remote.as_ref()].concat()), sum(&[pod_port, remote_port].concat()))
    });
    let [before, after] = sums;
    // Of two numbers that are equal modulo 0xffff, ones' complement makes the same.
    let change = |before: u32, after: u32| (after + 0xffff - before % 0xffff) % 0xffff;
    Flow { names, other, addresses: change(before.0, after.0), ports: change(before.1, after.1), ..flow }
}

/// Adds words as this machine reads them.
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|word| u32::from(u16::from_ne_bytes([word[0], word[1]]))).sum()
}

/// Changes all times except "never".
pub(super) fn at_times<A: Address>(mut flows: Flows<A>, change: impl Fn(u64) -> u64) -> Flows<A> {
    for Flow { egress, ingress, port_asked, .. } in flows.values_mut() {
        for time in [&mut egress.left, &mut ingress.left, port_asked] {
            if *time != UNKNOWN {
                *time = change(*time);
            }
        }
    }
    flows
}

/// Forgets the MTUs of ports, which programs note when they ask the kernel.
pub(super) fn without_port_mtus<A: Address>(mut flows: Flows<A>) -> Flows<A> {
    flows.values_mut().for_each(|flow| (flow.port_mtu, flow.port_asked) = (0, UNKNOWN));
    flows
}

/// Reads the programs' clock, in nanoseconds.
pub(super) fn now() -> u64 {
    static PROGRAMS: LazyLock<Ebpf> = LazyLock::new(|| {
        let Programs(mut ebpf) = Programs::unconfigured();
        load(abi::CLOCK, ebpf.program_mut(abi::CLOCK).unwrap());
        ebpf
    });
    let Some(Program::SchedClassifier(clock)) = PROGRAMS.program(abi::CLOCK) else { unreachable!() };
    clock::read(clock).unwrap()
}

impl Programs {
    /// Adds the ways of flows whose packets from the pod prove them, unless they have one: those of their leases. Through a tunnel they have
    /// no next hop, as where the kernel has no route; without, that of [`NEIGHBOUR_MAC`].
    pub(super) fn with_ways<A: Family>(&self, mut flows: Flows<A>) -> Flows<A> {
        let map = self.0.map(of_family::<A>(abi::LEASES, abi::LEASES6)).unwrap();
        let leases = LpmTrie::<_, A, Lease<A>>::try_from(map).unwrap();
        for (name, flow) in &mut flows {
            let remote = if flow.names == Names::POD { flow.other.remote } else { name.remote };
            let lease = leases.get(&Key::new(A::BITS, remote), 0).ok();
            let lease = lease.filter(|lease| lease.flags & !DIRECT == 0 && flow.egress.generation != 0);
            if !flow.way.is_known()
                && let Some(Lease { public_ip, vtep_mac, flags, .. }) = lease
            {
                let mtu = if A::BITS == V4::BITS { UPLINK_MTU } else { 1280 };
                let next_hop_mac = if flags & DIRECT == 0 { [0; 6] } else { NEIGHBOUR_MAC };
                flow.way = Way { public_ip, vtep_mac, flags, mtu, next_hop_mac, ..Way::default() };
            }
        }
        flows
    }

    /// Returns the content of `FLOWS`, with the shortest forms of the changes of checksums.
    pub(super) fn flows<A: Address + Pod>(&self) -> Flows<A> {
        let map = self.0.map(of_family::<A>(abi::FLOWS, abi::FLOWS6)).unwrap();
        let flows = HashMap::<_, FlowKey<A>, Flow<A>>::try_from(map).unwrap();
        let flows = flows.iter().map(Result::unwrap);
        flows
            .map(|(name, flow)| {
                let (addresses, ports) = (flow.addresses % 0xffff, flow.ports % 0xffff);
                (name, Flow { addresses, ports, ..flow })
            })
            .collect()
    }

    pub(super) fn set_flows<A: Address + Pod>(&mut self, wanted: &Flows<A>) {
        let old: Vec<_> = self.flows::<A>().into_keys().collect();
        let map = self.0.map_mut(of_family::<A>(abi::FLOWS, abi::FLOWS6)).unwrap();
        let mut flows = HashMap::<_, FlowKey<A>, Flow<A>>::try_from(map).unwrap();
        old.iter().for_each(|key| flows.remove(key).unwrap());
        wanted.iter().for_each(|(key, flow)| flows.insert(key, flow, 0).unwrap());
    }
}
