//! The programs, tested packet by packet with BPF_PROG_TEST_RUN: what goes in, what comes out, what is counted.

use std::iter;
use std::os::fd::AsFd as _;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf};
use aya::programs::{Program, ProgramError, TestRun as _, TestRunOptions, TestRunResult};
use aya::{Ebpf, Pod};
use flannel_agent::dataplane::bpf::{OBJECT, counters, loader};
use flannel_common::abi;
use flannel_common::address::{Address, V4, V6};
use flannel_common::event::Event;
use flannel_common::fingerprint::Token;
use flannel_common::kept::KeptEnd;
use flannel_common::lease::{self, Lease};
use flannel_common::node::{FEATURE_XDP, NodeConfig, XDP_OFF};
use flannel_common::outcome::{Hook, MetricsKey, Outcome, Traffic};

mod complexity;
mod direct;
mod ecn;
mod entry;
mod events;
mod flow;
mod fuzz;
mod group;
mod ipv6;
mod lookup;
mod node;
mod obstructed;
mod overlay_egress;
mod overlay_ingress;
mod pod_egress;
mod pod_ingress;
mod sender;
mod token;
mod translation;
mod underlay_ingress;
pub(crate) mod underlay_xdp;
mod untunnelled;
mod way;

use node::{node, v6};
use token::Carrier;

/// This node's address on the underlay, and the MAC of its vxlan device.
pub(crate) const OUR_IP: [u8; 4] = [192, 168, 64, 1];
pub(crate) const OUR_MAC: [u8; 6] = [0xc6, 0xd2, 0x32, 0x6f, 0x8f, 0x01];
pub(crate) const OUR_IP6: V6 = v6([0xfd00, 0x192, 0x168, 0x40, 0, 0, 0, 1]);
pub(crate) const OUR_MAC6: [u8; 6] = [0xc6, 0xd2, 0x32, 0x6f, 0x8f, 0x61];
/// A lease of the peer that has just ended.
pub(crate) const ENDED_SUBNET: [u8; 4] = [10, 1, 16, 0];
pub(crate) const OUR_SUBNET: [u8; 4] = [10, 1, 90, 0];
/// The peer that leases 10.1.15.0/24.
pub(crate) const PEER_IP: [u8; 4] = [192, 168, 64, 2];
pub(crate) const PEER_MAC: [u8; 6] = [0xc6, 0xd2, 0x32, 0x6f, 0x8f, 0x02];
/// The peer that leases 10.1.15.128/25 within it, which tests the longest match.
pub(crate) const INNER_PEER_IP: [u8; 4] = [192, 168, 64, 3];
pub(crate) const INNER_PEER_MAC: [u8; 6] = [0xc6, 0xd2, 0x32, 0x6f, 0x8f, 0x03];
pub(crate) const VNI: u32 = 1;
/// MTU of the uplink in bytes.
pub(crate) const UPLINK_MTU: u32 = 1500;
/// The node's generation.
pub(crate) const GENERATION: u32 = 7;

const TC_ACT_UNSPEC: i32 = -1;
pub(crate) const TC_ACT_SHOT: i32 = 2;
const TC_ACT_REDIRECT: i32 = 7;
/// `struct __sk_buff` (linux/bpf.h): its size, and where `mark`, `priority`, `ingress_ifindex` and `gso_size` are.
const SKB_SIZE: usize = 192;
const SKB_MARK: usize = 8;
const SKB_PRIORITY: usize = 32;
const SKB_INGRESS_IFINDEX: usize = 36;
const SKB_GSO_SIZE: usize = 176;
/// What programs may do where no XDP is attached.
const WITHOUT_XDP: u32 = !FEATURE_XDP;
/// The note that a packet's sender was checked, in the upper half of `priority`, above a priority.
const CHECKED: u32 = 3 << 16 | PRIORITY;
const PRIORITY: u32 = 6;

/// Returns which of two maps is for this family.
fn of_family<A: Address>(v4: &'static str, v6: &'static str) -> &'static str {
    if A::BITS == V4::BITS { v4 } else { v6 }
}

/// Metadata of a frame in the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SkbMeta {
    /// Payload bytes per segment of an aggregate.
    pub(crate) gso_size: u32,
    pub(crate) mark: u32,
    /// Index of the interface that last received it.
    pub(crate) ingress_ifindex: u32,
    /// Token that it got where it entered the host stack; 0: none.
    pub(crate) token: u32,
    /// True if it has left its tunnel without a note that its sender was checked.
    pub(crate) unchecked: bool,
    /// True if it comes in with the note, as a pod may have forged it.
    pub(crate) noted: bool,
}

/// Result of one run.
pub(crate) struct RunResult {
    pub(crate) action: i32,
    pub(crate) packet: Vec<u8>,
    pub(crate) mark: u32,
    /// Whether the packet has the note that its sender was checked.
    pub(crate) checked: bool,
    pub(crate) outcome: Outcome,
}

/// The programs, with a configuration and some leases in their maps.
pub(crate) struct Programs(Ebpf);

impl Programs {
    /// Loads them without the flow cache.
    pub(crate) fn load() -> Self {
        Self::configured(|_| {})
    }

    /// Loads them with the flow cache.
    pub(crate) fn with_flow_cache() -> Self {
        Self::configured(|node| node.flow_cache = 1)
    }

    /// Loads them with a changed configuration.
    pub(crate) fn configured(change: impl FnOnce(&mut NodeConfig)) -> Self {
        let node = node(change);
        let features = if node.xdp == XDP_OFF { WITHOUT_XDP } else { u32::MAX };
        Self::featured(features, node)
    }

    /// Loads them with these features and this configuration.
    fn featured(features: u32, node: NodeConfig) -> Self {
        let mut programs = Self::with_features(features);
        programs.set_node(|configured| *configured = node);
        let not_leased = Lease { public_ip: [0; 4], vtep_mac: [0; 6], flags: lease::NETWORK, route_mtu: 0 };
        programs.plug(1, flow::sample::POD_MAC);
        programs.lease(16, [10, 1, 0, 0], not_leased);
        programs.lease(
            24,
            [10, 1, 15, 0],
            Lease { public_ip: PEER_IP, vtep_mac: PEER_MAC, flags: 0, route_mtu: 0 },
        );
        let inner_peer = Lease { public_ip: INNER_PEER_IP, vtep_mac: INNER_PEER_MAC, flags: 0, route_mtu: 0 };
        programs.lease(25, [10, 1, 15, 128], inner_peer);
        programs.lease(
            32,
            PEER_IP,
            Lease { public_ip: PEER_IP, vtep_mac: PEER_MAC, flags: lease::NODE, route_mtu: 0 },
        );
        let gone = Lease { public_ip: PEER_IP, vtep_mac: PEER_MAC, flags: lease::ENDED, route_mtu: 0 };
        programs.lease(24, ENDED_SUBNET, gone);
        programs.lease(
            24,
            OUR_SUBNET,
            Lease { public_ip: OUR_IP, vtep_mac: OUR_MAC, flags: lease::OWN, route_mtu: 0 },
        );
        let ourselves =
            Lease { public_ip: OUR_IP, vtep_mac: OUR_MAC, flags: lease::OWN | lease::NODE, route_mtu: 0 };
        programs.lease(32, OUR_IP, ourselves);
        ipv6::leases().into_iter().for_each(|(length, prefix, lease)| programs.lease(length, prefix, lease));
        programs
    }

    /// Loads them without a configuration, as before the agent has written it.
    pub(crate) fn unconfigured() -> Self {
        Self::with_features(u32::MAX)
    }

    fn with_features(features: u32) -> Self {
        let mut loader = loader(false);
        loader.override_global(abi::FEATURES, &features, true);
        // Large maps take long to make and to list.
        for name in [abi::FLOWS, abi::FLOWS6] {
            loader.map_max_entries(name, 1024);
        }
        Self(loader.load(OBJECT).expect("loading BPF needs root: run `cargo xtask test` as root"))
    }

    /// Writes the configuration, changed.
    fn set_node(&mut self, change: impl FnOnce(&mut NodeConfig)) {
        let node = node(change);
        let mut config: Array<_, NodeConfig> = self.0.map_mut(abi::CONFIG).unwrap().try_into().unwrap();
        config.set(0, node, 0).unwrap();
    }

    /// Adds a lease to `LEASES` or `LEASES6`.
    fn lease<A: Address + Pod>(&mut self, length: u32, subnet: A, lease: Lease<A>) {
        let name = of_family::<A>(abi::LEASES, abi::LEASES6);
        let mut leases: LpmTrie<_, A, Lease<A>> = self.0.map_mut(name).unwrap().try_into().unwrap();
        leases.insert(&Key::new(length, subnet), lease, 0).unwrap();
    }

    /// Keeps the flows in the host stack that have an end with these first bits.
    fn keep(&mut self, bits: u32, end: KeptEnd) {
        let mut kept: LpmTrie<_, KeptEnd, u32> = self.0.map_mut(abi::KEPT).unwrap().try_into().unwrap();
        kept.insert(&Key::new(bits, end), 1, 0).unwrap();
    }

    /// Adds a pod's port, and the MAC of the pod.
    fn plug(&mut self, port: u32, mac: [u8; 6]) {
        let mut ports: HashMap<_, u32, [u8; 6]> = self.0.map_mut(abi::PORTS).unwrap().try_into().unwrap();
        ports.insert(port, mac, 0).unwrap();
    }

    /// Lets no flow over IPv4 get a new entry any more.
    fn spend_entries(&mut self) {
        let mut spent: Array<_, u64> = self.0.map_mut(abi::SPENT).unwrap().try_into().unwrap();
        spent.set(0, u64::MAX / 2, 0).unwrap();
    }

    /// Adds a lease to `SUBNETS` or `SUBNETS6`.
    fn subnet<A: Address + Pod>(&mut self, length: u32, subnet: A, lease: Lease<A>) {
        let name = of_family::<A>(abi::SUBNETS, abi::SUBNETS6);
        let mut subnets: HashMap<_, Key<A>, Lease<A>> = self.0.map_mut(name).unwrap().try_into().unwrap();
        subnets.insert(Key::new(length, subnet), lease, 0).unwrap();
    }

    /// Runs one frame through the program at `hook`. Fails unless exactly one outcome is counted, with its bytes.
    pub(crate) fn run(&mut self, hook: Hook, frame: &[u8], gso_size: u32) -> RunResult {
        self.run_with(hook, frame, SkbMeta { gso_size, ..SkbMeta::default() })
    }

    /// [`Programs::run`] with metadata.
    pub(crate) fn run_with(&mut self, hook: Hook, frame: &[u8], meta: SkbMeta) -> RunResult {
        let before = self.counters();
        let mut context = [0; SKB_SIZE];
        let is_checked = meta.noted || hook == Hook::OverlayIngress && !meta.unchecked;
        for (at, value) in [
            (SKB_MARK, meta.mark),
            (SKB_PRIORITY, if is_checked { CHECKED } else { PRIORITY }),
            (SKB_INGRESS_IFINDEX, meta.ingress_ifindex),
            (SKB_GSO_SIZE, meta.gso_size),
        ] {
            context[at..][..4].copy_from_slice(&value.to_ne_bytes());
        }
        let (mut out, mut context_out) = (vec![0; frame.len() + 100], [0; SKB_SIZE]);
        let (action, length) = if meta.token == 0 {
            let mut options = TestRunOptions::new();
            options.data_in = Some(frame);
            options.data_out = Some(&mut out);
            options.ctx_in = Some(&context);
            options.ctx_out = Some(&mut context_out);
            let result = self
                .test_run(hook, options)
                .unwrap_or_else(|error| panic!("a frame of {} bytes: {error}", frame.len()));
            (i32::from_ne_bytes(result.return_value.to_ne_bytes()), result.data_size_out as usize)
        } else {
            let carrier = Carrier::load(self.loaded(hook).fd().unwrap().as_fd(), Token(meta.token)).unwrap();
            let ran = carrier.run(frame, &context, &mut out, &mut context_out).unwrap();
            (ran.action, ran.length)
        };
        out.truncate(length);
        let number = |at: usize| context_out[at..][..4].try_into().map(u32::from_ne_bytes).unwrap();
        let (mark, priority) = (number(SKB_MARK), number(SKB_PRIORITY));
        assert_eq!(priority & 0xffff, PRIORITY, "what others know of the packet stays");
        let checked = priority == CHECKED;
        RunResult {
            action,
            packet: out,
            mark,
            checked,
            outcome: self.counted_since(&before, hook, frame.len()),
        }
    }

    /// Runs one frame many times, whatever its outcome.
    pub(crate) fn flood(&mut self, hook: Hook, frame: &[u8], times: u32) {
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.repeat = times;
        self.test_run(hook, options).unwrap();
    }

    /// Returns a program. It is loaded at its first run, so that no test loads programs that it does not run.
    fn loaded(&mut self, hook: Hook) -> &Program {
        let program = self.0.program_mut(hook.program()).unwrap();
        if program.fd().is_err() {
            load(hook.program(), program);
        }
        program
    }

    /// Runs a program.
    fn test_run(&mut self, hook: Hook, options: TestRunOptions<'_>) -> Result<TestRunResult, ProgramError> {
        match self.loaded(hook) {
            Program::SchedClassifier(program) => program.test_run(options),
            Program::Xdp(program) => program.test_run(options),
            _ => unreachable!("loaded above"),
        }
    }

    /// Returns the events since the last call.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        let mut ring = RingBuf::try_from(self.0.map_mut(abi::EVENTS).unwrap()).unwrap();
        iter::from_fn(|| ring.next().map(|record| Event::read(&record).unwrap())).collect()
    }

    fn counters(&self) -> counters::Counters {
        counters::sum(&PerCpuArray::try_from(self.0.map(abi::METRICS).unwrap()).unwrap()).unwrap()
    }

    fn counted_since(&self, before: &counters::Counters, hook: Hook, bytes: usize) -> Outcome {
        let moved: Vec<_> = self
            .counters()
            .into_iter()
            .filter_map(|(key, now)| {
                let then = before.get(&key).copied().unwrap_or_default();
                (now != then).then(|| (key, now.packets - then.packets, now.bytes - then.bytes))
            })
            .collect();
        let [(MetricsKey { outcome, hook: counted_at }, 1, counted)] = moved[..] else {
            panic!("not one packet with one outcome: {moved:?}")
        };
        assert_eq!((counted_at, counted), (hook, bytes as u64));
        outcome
    }
}

/// Loads a program of either type.
fn load(name: &str, program: &mut Program) {
    let loaded = match program {
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        other => panic!("{name} is of type {:?}", other.prog_type()),
    };
    loaded.unwrap_or_else(|error| panic!("{name}: {error:#?}"));
}

/// A packet that a program must not change, and the outcome.
pub(crate) struct Untouched {
    pub(crate) description: &'static str,
    pub(crate) frame: Vec<u8>,
    pub(crate) gso_size: u32,
    pub(crate) outcome: Outcome,
}

/// Makes an [`Untouched`] of a packet that is no aggregate.
pub(crate) fn untouched(description: &'static str, frame: Vec<u8>, outcome: Outcome) -> Untouched {
    Untouched { description, frame, gso_size: 0, outcome }
}

/// Runs a table. Fails unless every packet is passed on unchanged with its outcome.
pub(crate) fn all_untouched(programs: &mut Programs, hook: Hook, table: Vec<Untouched>) {
    for Untouched { description, frame, gso_size, outcome } in table {
        let run = programs.run(hook, &frame, gso_size);
        assert_eq!(run.outcome, outcome, "{description}");
        assert_eq!(run.action, TC_ACT_UNSPEC, "{description}");
        assert_eq!(run.packet, frame, "{description}");
    }
}

/// Asserts that the program has taken the packet over.
pub(crate) fn carried(run: &RunResult, outcome: Outcome, description: &str) {
    assert_eq!(run.outcome, outcome, "{description}");
    assert_eq!(run.action, TC_ACT_REDIRECT, "{description}");
}

#[test]
fn outcomes_that_never_happened_have_no_counters() {
    assert_eq!(Programs::load().counters(), counters::Counters::new());
    assert_eq!(Traffic::default(), Traffic { packets: 0, bytes: 0 });
}
