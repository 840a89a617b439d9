//! Fuzz test: good packets of every kind are mutated, and what comes out must be well-formed.

mod driver;
pub(super) mod frame;
mod judge;
mod mutation;
mod seed;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use aya::maps::{PerCpuArray, PerCpuValues};
use etherparse::IpNumber;
use flannel_common::abi;
use flannel_common::address::{Address, V4, V6};
use flannel_common::entered::Entered;
use flannel_common::fingerprint::Token;
use flannel_common::flow::FlowKey;
use flannel_common::lease::{DIRECT, Lease};
use flannel_common::node::{
    FLOOR_UNWRAPS, FLOOR_WRAPS, SOURCE_CHECK_OFF, SOURCE_CHECK_PODS, SOURCE_CHECK_STRICT, XDP_NATIVE,
};
use flannel_common::outcome::{Hook, Metrics, Outcome};
use flannel_tests::NetNs;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, FileFailurePersistence, RngSeed, TestRunner};

use frame::ETHERNET;

use super::flow::in_stack::{Packet, is_after_stack};
use super::flow::{FlowNames, Flows, LOST, POD_MTU, PROVEN, at_times, flow, grouped, now, without_port_mtus};
use super::translation::sample::{Service, masqueraded, name, to_service};
use super::{PEER_IP, PEER_MAC, Programs, SkbMeta, flow, ipv6};

/// File of failures, which later runs try first.
const FOUND: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/program/fuzz.proptest-regressions");
/// How long new packets are tried, and how many at least.
const TIME: Duration = Duration::from_secs(6);
const AT_LEAST: u32 = 500;
/// Most packets that are tried until every outcome of [`REACHED`] was seen. Some are rare, and a slow machine tries few.
const AT_MOST: u32 = 20 * AT_LEAST;
const BATCH: u32 = 250;

/// The group of proven flows, if they have one.
const GROUP: u32 = 42;
/// IPv4 subnet of a peer on the uplink's link, and the pods there that good packets go to, in both families.
const ON_LINK: V4 = [10, 1, 18, 0];
const ON_LINK_PODS: (V4, V6) = ([10, 1, 18, 7], ipv6::DIRECT_SUBNET);
/// Interfaces that last received a frame: none, the pod's port, and the bridge.
const RECEIVED_ON: [u32; 3] = [0, 1, 5];

/// Outcomes that must occur. A fuzz test in which every packet fails the first check would prove nothing.
const REACHED: [(Hook, Outcome); 47] = [
    (Hook::OverlayEgress, Outcome::Encapsulated),
    (Hook::OverlayEgress, Outcome::NotIp),
    (Hook::OverlayEgress, Outcome::NoLease),
    (Hook::OverlayEgress, Outcome::Unleased),
    (Hook::OverlayEgress, Outcome::ForeignVtep),
    (Hook::OverlayEgress, Outcome::InnerIpv6),
    (Hook::OverlayEgress, Outcome::AfterShortcut),
    (Hook::UnderlayIngress, Outcome::Decapsulated),
    (Hook::UnderlayIngress, Outcome::Delivered),
    (Hook::UnderlayIngress, Outcome::NotVxlan),
    (Hook::UnderlayIngress, Outcome::OuterLength),
    (Hook::UnderlayIngress, Outcome::OuterChecksum),
    (Hook::UnderlayIngress, Outcome::OuterOptions),
    (Hook::UnderlayIngress, Outcome::OuterFragment),
    (Hook::UnderlayIngress, Outcome::VxlanFlags),
    (Hook::UnderlayIngress, Outcome::LinkLocal),
    (Hook::UnderlayIngress, Outcome::UnknownSender),
    (Hook::UnderlayIngress, Outcome::ForgedSender),
    (Hook::UnderlayIngress, Outcome::LoopedSender),
    (Hook::UnderlayIngress, Outcome::NotEcnCapable),
    (Hook::OverlayIngress, Outcome::Delivered),
    (Hook::OverlayIngress, Outcome::FlowNew),
    (Hook::OverlayIngress, Outcome::Truncated),
    (Hook::PodEgress, Outcome::Encapsulated),
    (Hook::PodEgress, Outcome::Forwarded),
    (Hook::PodEgress, Outcome::OnLink),
    (Hook::PodEgress, Outcome::NotCacheable),
    (Hook::PodEgress, Outcome::TcpControl),
    (Hook::PodEgress, Outcome::FlowCacheOff),
    (Hook::PodIngress, Outcome::FlowProven),
    (Hook::UnderlayEgress, Outcome::FlowProven),
    (Hook::UnderlayEgress, Outcome::AfterShortcut),
    (Hook::UnderlayEgress, Outcome::NotOnLink),
    (Hook::UnderlayIngress, Outcome::FlowNew),
    (Hook::PodIngress, Outcome::NoFlow),
    (Hook::UnderlayIngress, Outcome::OtherAddress),
    (Hook::SideIngress, Outcome::OtherAddress),
    (Hook::SideIngress, Outcome::NotVxlan),
    (Hook::OverlayIngress, Outcome::UncheckedSender),
    (Hook::UnderlayXdp, Outcome::HandedOver),
    (Hook::UnderlayXdp, Outcome::NotVxlan),
    (Hook::UnderlayXdp, Outcome::OuterOptions),
    (Hook::UnderlayXdp, Outcome::ForeignVtep),
    (Hook::OverlayEgress, Outcome::Obstructed),
    (Hook::PodEgress, Outcome::Obstructed),
    (Hook::UnderlayIngress, Outcome::Obstructed),
    (Hook::UnderlayXdp, Outcome::Obstructed),
];

/// Outcomes that must occur with packets of translated flows.
const TRANSLATED: [(Hook, Outcome); 7] = [
    (Hook::PodEgress, Outcome::Encapsulated),
    (Hook::PodEgress, Outcome::Forwarded),
    (Hook::PodEgress, Outcome::OnLink),
    (Hook::UnderlayIngress, Outcome::Delivered),
    (Hook::OverlayIngress, Outcome::Delivered),
    (Hook::PodIngress, Outcome::FlowProven),
    (Hook::UnderlayEgress, Outcome::FlowProven),
];

/// A packet, and the state of the programs.
#[derive(Clone, Debug)]
struct Case {
    hook: Hook,
    frame: Vec<u8>,
    meta: SkbMeta,
    flow_cache: bool,
    source_check: u32,
    group_policy: bool,
    direct_routing: bool,
    /// What is left to the floor, as of `NodeConfig::floor`.
    floor: u32,
    /// Whether the flows of good packets are proven in both directions, and for which group.
    proven: bool,
    group: u32,
    /// Whether a packet that leaves the stack is as it entered, but for its addresses.
    unchanged: bool,
    noted: Noted,
}

/// What was noted of a packet that leaves the stack where it entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Noted {
    /// The packet, with the addresses that it leaves with.
    Same,
    /// The packet, with other addresses.
    Translated,
    /// The packet, too long ago.
    Late,
    /// The packet, towards the other side.
    Reverse,
    /// Another packet.
    Another,
    Nothing,
}

const NOTED: [Noted; 6] =
    [Noted::Same, Noted::Translated, Noted::Late, Noted::Reverse, Noted::Another, Noted::Nothing];

fn cases() -> impl Strategy<Value = Case> {
    let packet = select(seed::all()).prop_flat_map(|(hook, good)| {
        let hook = prop_oneof![8 => Just(hook), 1 => select(Hook::classifiers().collect::<Vec<_>>())];
        (hook, mutation::mutations().prop_map(move |mutations| mutations.of(&good)))
    });
    let switches = [0.8, 0.3, 0.5, 0.8, 0.8].map(prop::bool::weighted);
    let modes = select(&[SOURCE_CHECK_OFF, SOURCE_CHECK_PODS, SOURCE_CHECK_PODS, SOURCE_CHECK_STRICT][..]);
    let floor = prop_oneof![8 => Just(0), 1 => select(&[FLOOR_WRAPS, FLOOR_UNWRAPS][..])];
    let noted = prop_oneof![4 => Just(Noted::Same), 6 => select(&NOTED[..])];
    (packet, meta(), switches, modes, floor, select(&[0, GROUP][..]), noted).prop_map(
        |((hook, frame), meta, switches, source_check, floor, group, noted)| {
            let [flow_cache, group_policy, direct_routing, proven, unchanged] = switches;
            Case {
                hook,
                frame,
                meta,
                flow_cache,
                source_check,
                group_policy,
                direct_routing,
                floor,
                proven,
                group,
                unchanged,
                noted,
            }
        },
    )
}

fn meta() -> impl Strategy<Value = SkbMeta> {
    let gso_size = prop_oneof![8 => Just(0), 1 => 1..1600u32];
    let mark = prop_oneof![4 => Just(0), 1 => Just(GROUP), 1 => any::<u32>()];
    let unchecked = prop::bool::weighted(0.1);
    (gso_size, mark, select(&RECEIVED_ON[..]), unchecked).prop_map(
        |(gso_size, mark, ingress_ifindex, unchecked)| SkbMeta {
            gso_size,
            mark,
            ingress_ifindex,
            unchecked,
            noted: false,
            token: 0,
        },
    )
}

impl Case {
    /// Returns the content of a map of flows before the run, with ages instead of times.
    fn known<A: Address>(&self, flows: &[FlowNames<A>]) -> Flows<A> {
        let proven = grouped(flow(PROVEN, PROVEN), [self.group; 2]);
        flows.iter().filter(|_| self.proven).flat_map(|names| names.entries(proven)).collect()
    }

    /// Returns the packet of a flow that leaves the stack.
    fn leaving<A: Service>(&self) -> Option<Packet<A>> {
        Packet::read(&self.frame, self.meta.gso_size, self.hook).filter(|_| is_after_stack(self.hook))
    }

    /// Returns the token that the packet carries.
    fn token(&self) -> Token {
        let own = self.leaving::<V4>().map(|packet| packet.token);
        let own = own.or_else(|| self.leaving::<V6>().map(|packet| packet.token)).unwrap_or(Token::NONE);
        if self.unchanged { own } else { Token(own.0 ^ 2) }
    }

    /// Returns the flow's name with which a packet that leaves the stack has entered.
    fn entered_name<A: Service>(&self) -> Option<FlowKey<A>> {
        let name = self.leaving()?.name;
        let translated = FlowKey { remote: A::SERVICE, ..name };
        Some(if self.noted == Noted::Translated { translated } else { name })
    }

    /// Writes what was noted of the packet where it entered the stack.
    fn note<A: Service>(&self, programs: &mut Programs, now: u64) {
        let (Some(packet), Some(name)) = (self.leaving::<A>(), self.entered_name()) else { return };
        let age = if self.noted == Noted::Late { LOST } else { PROVEN };
        let mut entered = Entered { key: name, ..packet.entered(self.group, now - age) };
        entered.from_pod ^= u16::from(self.noted == Noted::Reverse);
        let mut entered = packet.fingerprinted(entered, self.token());
        entered.fingerprint ^= u64::from(self.noted == Noted::Another);
        let record = if self.noted == Noted::Nothing { Entered::default() } else { entered };
        programs.set_entered(self.token().slot(), record);
    }

    /// Returns whether flows to and from peers on the link may skip the stack. Without the flow cache the agent never sets this.
    const fn has_direct_flows(&self) -> bool {
        self.flow_cache && self.direct_routing
    }

    /// Runs the packet and checks what comes out. Returns the outcome, and that of XDP if the packet arrives at the uplink.
    fn check(&self, programs: &mut Programs) -> Result<Vec<(Hook, Outcome)>, TestCaseError> {
        programs.set_node(|node| {
            (node.flow_cache, node.group_policy) = (self.flow_cache.into(), self.group_policy.into());
            (node.direct_routing, node.floor) = (self.has_direct_flows().into(), self.floor);
            (node.v4.source_check, node.v6.source_check) = (self.source_check, self.source_check);
        });
        programs.reset_counters();
        programs.loaded(self.hook);
        let start = now();
        let (v4, v6) = proven_flows();
        let v4 = programs.with_ways(at_times(self.known(&v4), |age| start - age));
        let v6 = programs.with_ways(at_times(self.known(&v6), |age| start - age));
        programs.set_flows(&v4);
        programs.set_flows(&v6);
        self.note::<V4>(programs, start);
        self.note::<V6>(programs, start);
        let run = programs.run_with(self.hook, &self.frame, SkbMeta { token: self.token().0, ..self.meta });
        judge::check_packet(self, &run)?;
        judge::check_flows(self, &run, &v4, &without_port_mtus(programs.flows()))?;
        judge::check_flows(self, &run, &v6, &without_port_mtus(programs.flows()))?;
        let mut ends = vec![(self.hook, run.outcome)];
        if self.hook == Hook::UnderlayIngress && self.meta.gso_size == 0 && self.frame.len() >= ETHERNET {
            ends.push((Hook::UnderlayXdp, driver::check(programs, self, &run)?));
        }
        Ok(ends)
    }
}

/// Returns the flows of the good packets: with the peer behind the tunnel and with the one on the link, and translated ones.
fn proven_flows() -> (Vec<FlowNames<V4>>, Vec<FlowNames<V6>>) {
    let (v4, v6) = ON_LINK_PODS;
    let flows4 = [IpNumber::UDP, IpNumber::TCP].map(|of| direct(flow::sample::key(of), v4));
    let flows6 = [IpNumber::UDP, IpNumber::TCP].map(|of| direct(ipv6::sample::key(of), v6));
    ([flows4.concat(), translated(v4)].concat(), [flows6.concat(), translated(v6)].concat())
}

fn direct<A: Service>(name: FlowKey<A>, on_link: A) -> Vec<FlowNames<A>> {
    vec![FlowNames::same(name), FlowNames::same(FlowKey { remote: on_link, ..name })]
}

/// Returns the flows of the good packets that the stack translates, with peers behind the tunnel and on the link.
fn translated<A: Service>(on_link: A) -> Vec<FlowNames<A>> {
    let on_link = |protocol| FlowNames {
        pod: name(protocol, (A::POD, 40003), (A::SERVICE, 82)),
        network: name(protocol, (A::POD, 40003), (on_link, 8082)),
    };
    let of = |protocol| [to_service(protocol), masqueraded(protocol), on_link(protocol)];
    [IpNumber::UDP, IpNumber::TCP].map(of).concat()
}

impl Programs {
    /// Removes all counters, since reading many takes longer than running a program.
    fn reset_counters(&mut self) {
        let metrics = self.0.map_mut(abi::METRICS).unwrap();
        let mut metrics = PerCpuArray::<_, Metrics>::try_from(metrics).unwrap();
        let none = metrics.get(&0, 0).unwrap().iter().map(|_| Metrics::default()).collect::<Vec<_>>();
        metrics.set(0, PerCpuValues::try_from(none).unwrap(), 0).unwrap();
    }
}

/// Returns good packets unchanged, with proven and unknown flows, with group policy and without, and left
/// to the floor.
fn good(packets: Vec<(Hook, Vec<u8>)>) -> impl Iterator<Item = Case> {
    let switches = [(true, false), (false, false), (true, true), (false, true)].map(|switches| (switches, 0));
    let obstructed = [((true, false), FLOOR_WRAPS | FLOOR_UNWRAPS)];
    let switches: Vec<_> = switches.into_iter().chain(obstructed).collect();
    packets.into_iter().flat_map(move |(hook, frame)| {
        let case = |((proven, group_policy), floor)| Case {
            hook,
            frame: frame.clone(),
            // With group policy through the bridge, without it directly from the pod.
            meta: SkbMeta { ingress_ifindex: if group_policy { 5 } else { 1 }, ..SkbMeta::default() },
            flow_cache: true,
            source_check: SOURCE_CHECK_PODS,
            group_policy,
            direct_routing: true,
            floor,
            proven,
            group: if group_policy { GROUP } else { 0 },
            unchanged: true,
            noted: Noted::Same,
        };
        switches.clone().into_iter().map(case).collect::<Vec<_>>()
    })
}

/// Tries packets unchanged. Returns their outcomes.
fn try_good(programs: &mut Programs, packets: Vec<(Hook, Vec<u8>)>) -> BTreeSet<(Hook, Outcome)> {
    let check = |case: Case| case.check(programs).unwrap_or_else(|failure| panic!("{failure}: {case:?}"));
    good(packets).flat_map(check).collect()
}

fn try_all(mut programs: Programs) {
    let seen = try_good(&mut programs, seed::translated());
    let missed: Vec<_> = TRANSLATED.iter().filter(|reached| !seen.contains(reached)).collect();
    assert!(missed.is_empty(), "no translated packet ended as {missed:?}");
    let seen = try_good(&mut programs, seed::all());
    let (programs, seen) = (RefCell::new(programs), RefCell::new(seen));
    let (start, first, mut tried) = (Instant::now(), first_seed(), 0);
    let missed = |seen: &RefCell<BTreeSet<_>>| {
        let seen = seen.borrow();
        REACHED.into_iter().filter(|reached| !seen.contains(reached)).collect::<Vec<_>>()
    };
    while tried < AT_LEAST || start.elapsed() < TIME || tried < AT_MOST && !missed(&seen).is_empty() {
        // A runner tries this number of packets, and then another one is needed.
        let seed = first.wrapping_add((tried / BATCH).into());
        let failure_persistence = Some(Box::new(FileFailurePersistence::Direct(FOUND)) as _);
        let rng_seed = RngSeed::Fixed(seed);
        let config = Config { cases: BATCH, failure_persistence, rng_seed, ..Config::default() };
        let tested = TestRunner::new(config).run(&cases(), |case| {
            seen.borrow_mut().extend(case.check(&mut programs.borrow_mut())?);
            Ok(())
        });
        tested.unwrap_or_else(|failure| panic!("{failure}\nPROPTEST_RNG_SEED={seed} tries this again"));
        tried += BATCH;
    }
    println!("{tried} packets in {:?}", start.elapsed());
    let missed = missed(&seen);
    assert!(
        missed.is_empty(),
        "{tried} packets from PROPTEST_RNG_SEED={first} on, and none ended as {missed:?}"
    );
}

/// Returns the seed of the first batch: from the environment (`PROPTEST_RNG_SEED`), or a random one.
fn first_seed() -> u64 {
    match Config::default().rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => RandomState::new().hash_one(()),
    }
}

#[test]
fn nothing_malformed_comes_out() {
    let place = NetNs::new("fuzz").unwrap();
    place.ip(&[format!("link set lo mtu {POD_MTU}")]).unwrap();
    // With all that programs may do: `Case::check` configures them.
    let mut programs = Programs::configured(|node| node.xdp = XDP_NATIVE);
    programs.lease(
        24,
        ON_LINK,
        Lease { public_ip: PEER_IP, vtep_mac: PEER_MAC, flags: DIRECT, route_mtu: 0 },
    );
    let subnets = ipv6::leases().into_iter().filter(|(length, ..)| *length == 64);
    subnets.for_each(|(length, subnet, lease)| programs.subnet(length, subnet, lease));
    let tried = place.run(|| {
        try_all(programs);
        Ok(())
    });
    tried.unwrap();
}
