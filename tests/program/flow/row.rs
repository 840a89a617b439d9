//! Rows of the tables: a packet, what the maps hold before the run, and what they hold afterwards.

use flannel_common::address::{Address, V4};
use flannel_common::entered::Entered;
use flannel_common::fingerprint::Token;
use flannel_common::outcome::{Hook, Outcome, Verdict};
use flannel_tests::NetNs;

use super::super::{Programs, RunResult, SkbMeta, TC_ACT_REDIRECT, TC_ACT_UNSPEC};
use super::in_stack::{InStack, Packet, is_after_stack};
use super::{Family, Flows, NOW, POD_MTU, PROVEN, UNKNOWN, at_times, flow, none, now, of_udp};

/// What is noted in `ENTERED` of a packet that leaves the stack.
enum Record<A: Address> {
    /// That it has entered just before, with the same name.
    Own,
    Nothing,
    /// The same, but changed: before it gets its fingerprint, or afterwards.
    Other(Change<A>),
    Torn(Change<A>),
}

/// Changes a record, whose time is an age.
type Change<A> = Box<dyn FnOnce(&mut Entered<A>) + Send>;

/// One run of a table.
pub(in crate::program) struct Row<A: Address = V4> {
    description: &'static str,
    frame: Vec<u8>,
    meta: SkbMeta,
    /// Its token. `None`: where packets leave the stack, that of a packet that has not been changed.
    token: Option<u32>,
    record: Record<A>,
    /// The mark with which its entry is noted. `None`: it is not noted.
    noted: Option<u32>,
    before: Flows<A>,
    outcome: Outcome,
    after: Flows<A>,
}

/// Makes a row: a frame, the flows before, its outcome, and the flows afterwards. Where packets leave the stack, this one has
/// entered just before and was not changed; nowhere its entry is noted.
pub(in crate::program) fn row<A: Address>(
    description: &'static str,
    frame: Vec<u8>,
    before: Flows<A>,
    outcome: Outcome,
    after: Flows<A>,
) -> Row<A> {
    let (meta, token, record, noted) = (SkbMeta::default(), None, Record::Own, None);
    Row { description, frame, meta, token, record, noted, before, outcome, after }
}

/// Makes two rows for a frame that changes no flow, proven or unknown.
pub(super) fn indifferent(description: &'static str, frame: &[u8], outcome: Outcome) -> [Row; 2] {
    [of_udp(flow(PROVEN, PROVEN)), none()]
        .map(|flows| row(description, frame.to_vec(), flows.clone(), outcome, flows))
}

impl<A: Address> Row<A> {
    /// Makes the frame an aggregate of such segments.
    pub(in crate::program) fn gso(mut self, gso_size: usize) -> Self {
        self.meta.gso_size = gso_size as u32;
        self
    }

    /// Sets the frame's mark.
    pub(in crate::program) fn marked(mut self, mark: u32) -> Self {
        self.meta.mark = mark;
        self
    }

    /// Sets the frame's token.
    pub(in crate::program) fn token(mut self, token: u32) -> Self {
        self.token = Some(token);
        self
    }

    /// Sets the interface that last received the frame.
    pub(in crate::program) fn from(mut self, ingress_ifindex: u32) -> Self {
        self.meta.ingress_ifindex = ingress_ifindex;
        self
    }

    /// Expects that the packet's entry is noted.
    pub(in crate::program) fn noted(self) -> Self {
        self.noted_with(0)
    }

    /// Expects that the packet's entry is noted with this mark.
    pub(in crate::program) fn noted_with(mut self, mark: u32) -> Self {
        self.noted = Some(mark);
        self
    }

    /// Sets that the packet's entry was not noted.
    pub(in crate::program) fn not_noted(mut self) -> Self {
        self.record = Record::Nothing;
        self
    }

    /// Changes what was noted of the packet, at an age instead of a time.
    pub(in crate::program) fn entered(
        mut self,
        change: impl FnOnce(&mut Entered<A>) + Send + 'static,
    ) -> Self {
        self.record = Record::Other(Box::new(change));
        self
    }

    /// Changes what was noted of the packet without a new fingerprint.
    pub(in crate::program) fn torn(mut self, change: impl FnOnce(&mut Entered<A>) + Send + 'static) -> Self {
        self.record = Record::Torn(Box::new(change));
        self
    }
}

impl<A: Family> Record<A> {
    /// Returns the record of a packet that carries this token.
    fn of(self, packet: &Packet<A>, token: Token) -> Option<Entered<A>> {
        let mut entered = packet.entered(0, PROVEN);
        if let Self::Other(change) = self {
            change(&mut entered);
            return Some(packet.fingerprinted(entered, token));
        }
        let mut entered = packet.fingerprinted(entered, token);
        match self {
            Self::Nothing => return None,
            Self::Torn(change) => change(&mut entered),
            Self::Own | Self::Other(_) => {}
        }
        Some(entered)
    }
}

/// Runs a table in a namespace whose only interface is the pod's port. Packets that are not carried must come out
/// unchanged; `carried` checks the others.
pub(in crate::program) fn check<A: Family>(
    programs: &mut Programs,
    hook: Hook,
    table: Vec<Row<A>>,
    carried: impl Fn(&RunResult, &[u8]) + Send,
) {
    let place = NetNs::new("program").unwrap();
    place.ip(&[format!("link set lo mtu {POD_MTU}")]).unwrap();
    let checked = place.run(move || {
        table.into_iter().for_each(|row| check_here(programs, hook, row, &carried));
        Ok(())
    });
    checked.unwrap();
}

fn check_here<A: Family>(
    programs: &mut Programs,
    hook: Hook,
    row: Row<A>,
    carried: &impl Fn(&RunResult, &[u8]),
) {
    let Row { description, frame, mut meta, token, record, noted, before, outcome, after } = row;
    let packet = Packet::<A>::read(&frame, meta.gso_size, hook);
    let mut in_stack = InStack::new();
    if is_after_stack(hook)
        && let Some(packet) = &packet
    {
        meta.token = token.unwrap_or(packet.token.0);
        let token = Token(meta.token);
        in_stack.extend(record.of(packet, token).map(|record| (token.slot(), record)));
    }
    // Loading takes long.
    programs.loaded(hook);
    let start = now();
    let before = programs.with_ways(before);
    let after = programs.with_ways(after);
    programs.set_flows(&at_times(before, |age| start - age));
    for (slot, record) in &in_stack {
        programs.set_entered(*slot, Entered { at: start - record.at, ..*record });
    }
    let run = programs.run_with(hook, &frame, meta);
    assert_eq!(run.outcome, outcome, "{description}");
    if outcome.verdict() == Verdict::Carried {
        assert_eq!(run.action, TC_ACT_REDIRECT, "{description}");
        carried(&run, &frame);
    } else {
        let untouched = (TC_ACT_UNSPEC, &frame, meta.mark);
        assert_eq!((run.action, &run.packet, run.mark), untouched, "{description}");
    }
    let age = |time| if time >= start { NOW } else { start - time };
    let says_something = meta.token > Token::UNKNOWN.0 && has_left_now(&after);
    let left = at_times(programs.flows(), age);
    assert_eq!(left, without_what_may_be_noted(after, &left), "{description}");
    let mut left = programs.in_stack::<A>();
    left.keys().for_each(|slot| programs.set_entered(*slot, Entered::<A>::default()));
    left.values_mut().for_each(|record| record.at = age(record.at));
    if let Some(mark) = noted {
        let packet = packet.expect("a packet of a flow");
        let slot = packet.token.slot();
        // The kernel has computed the hash.
        let hash = left.get(&slot).map_or(0, |record| record.hash);
        let entered = Entered { hash, ..packet.entered(mark, NOW) };
        in_stack.insert(slot, packet.fingerprinted(entered, packet.token));
    }
    for (slot, record) in &mut in_stack {
        let is_used = left.get(slot).is_some_and(|left| left.fingerprint == 0);
        assert!(is_used || !says_something, "{description}: it could be used again");
        if is_used && is_after_stack(hook) {
            record.fingerprint = 0;
        }
    }
    assert_eq!(left, in_stack, "{description}");
}

/// Expects any way of flows whose packets from the pod are not proven: nothing takes it. Expects any MTU of a port, unless one is
/// expected.
fn without_what_may_be_noted<A: Family>(mut expected: Flows<A>, left: &Flows<A>) -> Flows<A> {
    for (name, flow) in &mut expected {
        let noted = left.get(name).copied().unwrap_or_default();
        if flow.egress.generation == 0 {
            flow.way = noted.way;
        }
        if flow.port_asked == UNKNOWN {
            (flow.port_mtu, flow.port_asked) = (noted.port_mtu, noted.port_asked);
        }
    }
    expected
}

/// Returns whether the run has noted that a packet left the stack.
fn has_left_now<A: Family>(flows: &Flows<A>) -> bool {
    flows.values().any(|flow| [flow.egress, flow.ingress].iter().any(|passage| passage.left == NOW))
}

/// Checks that a good packet changes nothing without the flow cache or without a configuration.
pub(in crate::program) fn check_off(hook: Hook, frame: &[u8]) {
    for (mut programs, outcome) in
        [(Programs::load(), Outcome::FlowCacheOff), (Programs::unconfigured(), Outcome::NoConfig)]
    {
        let rows = indifferent("a good packet", frame, outcome);
        check(&mut programs, hook, rows.into(), |_, _| unreachable!("nothing is carried"));
    }
}
