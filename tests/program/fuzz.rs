//! Whatever a program meets, nothing malformed comes out: good packets of every kind, mutated in thousands of ways.

mod frame;
mod judge;
mod mutation;
mod seed;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use etherparse::IpNumber;
use flannel_common::outcome::{Hook, Outcome};
use flannel_tests::NetNs;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};

use super::Programs;
use super::flow::sample::key;
use super::flow::{Flows, POD_MTU, PROVEN, at_times, flow, now};

/// What was found once is tried first from then on.
const FOUND: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/program/fuzz.proptest-regressions");
/// How long new packets are tried, and how many at least.
const TIME: Duration = Duration::from_secs(8);
const AT_LEAST: u32 = 2000;
const BATCH: u32 = 250;

/// What the packets have to have shown: a fuzz test that always ends at the first check proves nothing.
const REACHED: [(Hook, Outcome); 23] = [
    (Hook::OverlayEgress, Outcome::Encapsulated),
    (Hook::OverlayEgress, Outcome::NotIp),
    (Hook::OverlayEgress, Outcome::NoLease),
    (Hook::OverlayEgress, Outcome::ForeignVtep),
    (Hook::UnderlayIngress, Outcome::Decapsulated),
    (Hook::UnderlayIngress, Outcome::Delivered),
    (Hook::UnderlayIngress, Outcome::NotVxlan),
    (Hook::UnderlayIngress, Outcome::OuterLength),
    (Hook::UnderlayIngress, Outcome::OuterChecksum),
    (Hook::UnderlayIngress, Outcome::OuterOptions),
    (Hook::UnderlayIngress, Outcome::UnknownSender),
    (Hook::UnderlayIngress, Outcome::ForgedSender),
    (Hook::UnderlayIngress, Outcome::LoopedSender),
    (Hook::UnderlayIngress, Outcome::NotEcnCapable),
    (Hook::OverlayIngress, Outcome::Delivered),
    (Hook::OverlayIngress, Outcome::FlowNew),
    (Hook::OverlayIngress, Outcome::Truncated),
    (Hook::PodEgress, Outcome::Encapsulated),
    (Hook::PodEgress, Outcome::NotCacheable),
    (Hook::PodEgress, Outcome::TcpControl),
    (Hook::PodEgress, Outcome::FlowCacheOff),
    (Hook::PodIngress, Outcome::FlowProven),
    (Hook::PodIngress, Outcome::NoFlow),
];

/// One packet, and what it meets.
#[derive(Clone, Debug)]
struct Case {
    hook: Hook,
    frame: Vec<u8>,
    gso_size: u32,
    flow_cache: bool,
    source_check: bool,
    /// Whether the flows of the good packets are proven.
    proven: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let packet = select(seed::all()).prop_flat_map(|(hook, good)| {
        let hook = prop_oneof![8 => Just(hook), 1 => select(Hook::ALL)];
        (hook, mutation::mutations().prop_map(move |mutations| mutations.of(&good)))
    });
    let gso_size = prop_oneof![8 => Just(0), 1 => 1..1600u32];
    let switches = (prop::bool::weighted(0.8), prop::bool::weighted(0.8), prop::bool::weighted(0.8));
    (packet, gso_size, switches).prop_map(|((hook, frame), gso_size, switches)| {
        let (flow_cache, source_check, proven) = switches;
        Case { hook, frame, gso_size, flow_cache, source_check, proven }
    })
}

impl Case {
    /// What `FLOWS` holds beforehand, as ages.
    fn known(&self) -> Flows {
        let proven = [IpNumber::UDP, IpNumber::TCP].map(|protocol| (key(protocol), flow(PROVEN, PROVEN)));
        proven.into_iter().filter(|_| self.proven).collect()
    }

    /// Runs the packet and judges what comes out; says how the run ended.
    fn check(&self, programs: &mut Programs) -> Result<Outcome, TestCaseError> {
        programs.set_node(|node| {
            node.flow_cache = self.flow_cache.into();
            node.source_check = self.source_check.into();
        });
        let start = now();
        let before = at_times(self.known(), |age| start - age);
        programs.set_flows(&before);
        let run = programs.run(self.hook, &self.frame, self.gso_size);
        judge::fate(self, &run)?;
        judge::memory(self, &before, &programs.flows())?;
        Ok(run.outcome)
    }
}

/// The good packets as they are, their flows known and unknown.
fn good() -> impl Iterator<Item = Case> {
    seed::all().into_iter().flat_map(|(hook, frame)| {
        [true, false].map(|proven| {
            let frame = frame.clone();
            Case { hook, frame, gso_size: 0, flow_cache: true, source_check: true, proven }
        })
    })
}

fn try_all(mut programs: Programs) {
    let mut seen = BTreeSet::new();
    for case in good() {
        let outcome = case.check(&mut programs).unwrap_or_else(|failure| panic!("{failure}: {case:?}"));
        seen.insert((case.hook, outcome));
    }
    let (programs, seen) = (RefCell::new(programs), RefCell::new(seen));
    let (start, mut tried) = (Instant::now(), 0);
    while tried < AT_LEAST || start.elapsed() < TIME {
        // A runner is through when it has tried as many as it was told to.
        let failure_persistence = Some(Box::new(FileFailurePersistence::Direct(FOUND)) as _);
        let config = Config { cases: BATCH, failure_persistence, ..Config::default() };
        let tested = TestRunner::new(config).run(&cases(), |case| {
            let outcome = case.check(&mut programs.borrow_mut())?;
            seen.borrow_mut().insert((case.hook, outcome));
            Ok(())
        });
        tested.unwrap_or_else(|failure| panic!("{failure}"));
        tried += BATCH;
    }
    println!("{tried} packets in {:?}", start.elapsed());
    let seen = seen.into_inner();
    let missed: Vec<_> = REACHED.iter().filter(|reached| !seen.contains(reached)).collect();
    assert!(missed.is_empty(), "{tried} packets, and none ended as {missed:?}");
}

#[test]
fn nothing_malformed_comes_out() {
    let place = NetNs::new("fuzz").unwrap();
    place.ip(&[format!("link set lo mtu {POD_MTU}")]).unwrap();
    let programs = Programs::with_flow_cache();
    let tried = place.run(|| {
        try_all(programs);
        Ok(())
    });
    tried.unwrap();
}
