//! Tables for the flow cache: a packet, what `FLOWS` holds before the run, and what it holds afterwards.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use aya::Pod;
use aya::maps::HashMap;
use etherparse::IpNumber;
use flannel_common::abi;
use flannel_common::address::{Address, V4, V6};
use flannel_common::fingerprint::Fingerprint;
use flannel_common::flow::{Flow, FlowKey, PROOF_NS, Passage, Port, TRANSIT_NS};
use flannel_common::outcome::{Hook, Outcome, Verdict};

use flannel_tests::NetNs;

use super::{Programs, RunResult, SkbMeta, TC_ACT_REDIRECT, TC_ACT_UNSPEC, fuzz, of_family};
use sample::{GATEWAY_MAC, POD_MAC, key};

pub(super) mod sample;

/// Times in the tables are ages in nanoseconds at the start of the run. This stands for a time that the run wrote.
pub(super) const NOW: u64 = u64::MAX;
/// Stands for a time in the future: no packet becomes the sample until then.
pub(super) const LATER: u64 = u64::MAX - 1;
pub(super) const NEVER: u64 = 0;
const MOMENT: u64 = 10_000_000;
/// Age of a proof that holds, and of a packet that may still be in the stack.
pub(super) const FRESH: u64 = MOMENT;
/// Age of a packet that can no longer be in the stack.
pub(super) const LOST: u64 = TRANSIT_NS + MOMENT;
/// Age of a proof that has expired.
pub(super) const STALE: u64 = PROOF_NS + MOMENT;

/// When a packet last entered the stack, and when one last left it: never.
pub(super) const UNKNOWN: [u64; 2] = [NEVER, NEVER];
pub(super) const PROVEN: [u64; 2] = [FRESH, FRESH];
pub(super) const OLD: [u64; 2] = [STALE, STALE];

/// Makes a flow that has entered and left the stack at these times, from the pod and to it.
pub(super) fn flow(egress: [u64; 2], ingress: [u64; 2]) -> Flow {
    let passage = |[entered, left]: [u64; 2]| Passage { entered, left, ..Passage::default() };
    Flow { egress: passage(egress), ingress: passage(ingress), port: port() }
}

/// MTU of the pod's bridge port, in bytes.
pub(super) const POD_MTU: usize = 1450;

/// Returns the pod's bridge port, which is loopback in a test run.
fn port() -> Port {
    Port { ifindex: 1, pod_mac: POD_MAC, gateway_mac: GATEWAY_MAC }
}

/// Changes the pod's port.
pub(super) fn moved(mut flow: Flow, change: impl FnOnce(&mut Port)) -> Flow {
    change(&mut flow.port);
    flow
}

/// Sets the flow's groups, from the pod and to it.
pub(super) fn grouped(mut flow: Flow, [egress, ingress]: [u32; 2]) -> Flow {
    (flow.egress.mark, flow.ingress.mark) = (egress, ingress);
    flow
}

/// Sets that the stack has changed a packet, from the pod and to it.
pub(super) fn changed(mut flow: Flow, [egress, ingress]: [bool; 2]) -> Flow {
    (flow.egress.changed, flow.ingress.changed) = (egress.into(), ingress.into());
    flow
}

/// Sets the fingerprint of the samples that are in the stack.
pub(super) fn sampled(mut flow: Flow, sample: u64) -> Flow {
    (flow.egress.sample, flow.ingress.sample) = (sample, sample);
    flow
}

/// Contents of `FLOWS`.
pub(super) type Flows<A = V4> = BTreeMap<FlowKey<A>, Flow>;

pub(super) fn none<A: Address>() -> Flows<A> {
    Flows::new()
}

pub(super) fn of_udp(flow: Flow) -> Flows {
    Flows::from([(key(IpNumber::UDP), flow)])
}

pub(super) fn of_tcp(flow: Flow) -> Flows {
    Flows::from([(key(IpNumber::TCP), flow)])
}

/// One run of a table.
pub(super) struct Row<A: Address = V4> {
    description: &'static str,
    frame: Vec<u8>,
    meta: SkbMeta,
    /// Its token. `None`: where packets leave the stack, that of a packet that has not been changed.
    token: Option<u32>,
    before: Flows<A>,
    outcome: Outcome,
    after: Flows<A>,
}

/// Makes a row: a frame, the flows before, its outcome, and the flows afterwards.
pub(super) fn row<A: Address>(
    description: &'static str,
    frame: Vec<u8>,
    before: Flows<A>,
    outcome: Outcome,
    after: Flows<A>,
) -> Row<A> {
    Row { description, frame, meta: SkbMeta::default(), token: None, before, outcome, after }
}

/// Makes two rows for a frame that changes no flow, proven or unknown.
fn indifferent(description: &'static str, frame: &[u8], outcome: Outcome) -> [Row; 2] {
    [of_udp(flow(PROVEN, PROVEN)), none()]
        .map(|flows| row(description, frame.to_vec(), flows.clone(), outcome, flows))
}

impl<A: Address> Row<A> {
    /// Makes the frame an aggregate of such segments.
    pub(super) fn gso(mut self, gso_size: usize) -> Self {
        self.meta.gso_size = gso_size as u32;
        self
    }

    /// Sets the frame's mark.
    pub(super) fn marked(mut self, mark: u32) -> Self {
        self.meta.mark = mark;
        self
    }

    /// Sets the frame's token.
    pub(super) fn token(mut self, token: u32) -> Self {
        self.token = Some(token);
        self
    }

    /// Sets the interface that last received the frame.
    pub(super) fn from(mut self, ingress_ifindex: u32) -> Self {
        self.meta.ingress_ifindex = ingress_ifindex;
        self
    }
}

/// Runs a table in a namespace whose only interface is the pod's port. Packets that are not carried must come out
/// unchanged; `carried` checks the others.
pub(super) fn check<A: Address + Pod>(
    programs: &mut Programs,
    hook: Hook,
    table: Vec<Row<A>>,
    carried: impl Fn(&RunResult, &[u8]) + Send,
) {
    let place = NetNs::new("program").unwrap();
    place.ip(&[format!("link set lo mtu {POD_MTU}")]).unwrap();
    let checked = place.run(|| {
        check_here(programs, hook, table, carried);
        Ok(())
    });
    checked.unwrap();
}

fn check_here<A: Address + Pod>(
    programs: &mut Programs,
    hook: Hook,
    table: Vec<Row<A>>,
    carried: impl Fn(&RunResult, &[u8]),
) {
    for Row { description, frame, mut meta, token, mut before, outcome, after } in table {
        let start = now_with_a_past();
        let own = fingerprint(&frame, meta.gso_size, hook);
        if is_after_stack(hook)
            && let Some(own) = own
        {
            meta.token = token.unwrap_or(own.token().0);
            // The packet is the sample, unless the row says otherwise.
            passages(&mut before)
                .filter(|passage| passage.entered != NEVER && passage.sample == 0)
                .for_each(|passage| passage.sample = own.0);
        }
        programs.set_flows(&at_times(before, |age| start - age));
        let run = programs.run_with(hook, &frame, meta);
        assert_eq!(run.outcome, outcome, "{description}");
        if outcome.verdict() == Verdict::Carried {
            assert_eq!(run.action, TC_ACT_REDIRECT, "{description}");
            carried(&run, &frame);
        } else {
            let untouched = (TC_ACT_UNSPEC, &frame, meta.mark);
            assert_eq!((run.action, &run.packet, run.mark), untouched, "{description}");
        }
        let end = now();
        let age = |time| match time {
            later if later > end => LATER,
            time if time >= start => NOW,
            time => start - time,
        };
        let mut flows = at_times(programs.flows(), age);
        for passage in passages(&mut flows) {
            if passage.entered == NOW {
                assert_eq!(Some(Fingerprint(passage.sample)), own, "{description}: the sample");
            }
            if passage.left == NOW && passage.changed == 0 {
                assert_eq!(passage.sample, 0, "{description}: the sample has left");
            }
            passage.sample = 0;
        }
        assert_eq!(flows, after, "{description}");
    }
}

/// Checks that a good packet changes nothing without the flow cache or without a configuration.
pub(super) fn check_off(hook: Hook, frame: &[u8]) {
    for (mut programs, outcome) in
        [(Programs::load(), Outcome::FlowCacheOff), (Programs::unconfigured(), Outcome::NoConfig)]
    {
        let rows = indifferent("a good packet", frame, outcome);
        check(&mut programs, hook, rows.into(), |_, _| unreachable!("nothing is carried"));
    }
}

/// Changes all times except "never".
pub(super) fn at_times<A: Address>(mut flows: Flows<A>, change: impl Fn(u64) -> u64) -> Flows<A> {
    for Flow { egress, ingress, .. } in flows.values_mut() {
        for time in [&mut egress.entered, &mut egress.left, &mut ingress.entered, &mut ingress.left] {
            if *time != NEVER {
                *time = change(*time);
            }
        }
    }
    flows
}

fn passages<A: Address>(flows: &mut Flows<A>) -> impl Iterator<Item = &mut Passage> {
    flows.values_mut().flat_map(|flow| [&mut flow.egress, &mut flow.ingress])
}

/// Returns whether packets at this hook leave the host stack.
pub(super) const fn is_after_stack(hook: Hook) -> bool {
    matches!(hook, Hook::OverlayEgress | Hook::PodIngress | Hook::UnderlayEgress)
}

/// Computes the fingerprint of a packet of a flow, as it is behind the stack.
pub(super) fn fingerprint(frame: &[u8], gso_size: u32, hook: Hook) -> Option<Fingerprint> {
    let flow = fuzz::frame::flow::<V4>(frame, 14, hook).map(|key| key.digest());
    let digest = flow.or_else(|| fuzz::frame::flow::<V6>(frame, 14, hook).map(|key| key.digest()))?;
    let hops = u8::from(!is_after_stack(hook));
    let (ip, transport, protocol) = match &frame[14..] {
        ip if ip[0] >> 4 == 4 => {
            let fixed = [&ip[..8], &[ip[8].wrapping_sub(hops), ip[9], 0, 0]].concat();
            (fixed, ip.get(24..)?, ip[9])
        }
        ip => {
            let fixed = [&ip[..7], &[ip[7].wrapping_sub(hops), 0, 0, 0, 0]].concat();
            (fixed, ip.get(44..)?, ip[6])
        }
    };
    // Of TCP: sequence and acknowledgement numbers, flags, window.
    let length = if IpNumber(protocol) == IpNumber::TCP { 12 } else { 0 };
    Some(digest.with_bytes(&ip).with_bytes(transport.get(..length)?).finish(gso_size != 0))
}

/// Reads the clock once it shows more than the greatest age. A virtual machine has just booted.
fn now_with_a_past() -> u64 {
    while now() <= STALE {
        thread::sleep(Duration::from_millis(100));
    }
    now()
}

/// Reads the programs' clock, in nanoseconds.
pub(super) fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time lives through the call.
    let read = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    assert_eq!(read, 0, "CLOCK_MONOTONIC_COARSE");
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

impl Programs {
    pub(super) fn flows<A: Address + Pod>(&self) -> Flows<A> {
        let map = self.0.map(of_family::<A>(abi::FLOWS, abi::FLOWS6)).unwrap();
        let flows = HashMap::<_, FlowKey<A>, Flow>::try_from(map).unwrap();
        flows.iter().map(Result::unwrap).collect()
    }

    pub(super) fn set_flows<A: Address + Pod>(&mut self, wanted: &Flows<A>) {
        let old: Vec<_> = self.flows::<A>().into_keys().collect();
        let map = self.0.map_mut(of_family::<A>(abi::FLOWS, abi::FLOWS6)).unwrap();
        let mut flows = HashMap::<_, FlowKey<A>, Flow>::try_from(map).unwrap();
        old.iter().for_each(|key| flows.remove(key).unwrap());
        wanted.iter().for_each(|(key, flow)| flows.insert(key, flow, 0).unwrap());
    }
}
