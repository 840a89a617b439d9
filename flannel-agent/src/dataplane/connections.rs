//! Keeps the connection tracker right about TCP connections that skip the host stack, each by itself, and counts flows on the way.
//!
//! The tracker sees one packet of many. It then takes a reset for invalid that is more than 2 GiB ahead of what it has seen, and
//! forgets an idle connection early whose acknowledgement it has not seen. Settings of the whole namespace prevent some of that
//! ([`super::kernel::conntrack`]); this prevents the rest, and what happens while another program sets those back.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use flannel_common::flow::{PROOF_NS, TRANSIT_NS};
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{debug, info, warn};

use super::bpf::clock;
use super::bpf::flows::{Connection, InUse, connections};
use super::bpf::pins::Pins;
use super::kernel::conntrack::{Proofs, Timeouts, ignores_invalid_resets};
use crate::metrics::{Family, METRICS};
use crate::netlink::conntrack::{
    BE_LIBERAL, Change, ESTABLISHED, Entry, MAXACK_SET, Tracker, Tuple, UNACKNOWLEDGED,
};

/// Longest time between two rounds.
const PERIOD: Duration = Duration::from_secs(60);

/// Looks after all connections of an overlay, round by round. Nothing waits for a round.
pub(super) struct ConnectionKeeper {
    pins: Pins,
    /// When the last round began, and what it was; `None` if the time could not be read.
    last: Option<(Instant, Option<Round>)>,
    round: Option<JoinHandle<Result<InUse>>>,
    /// What has failed, as logged last.
    failed: Option<String>,
    /// Capacity for flows of one address family.
    max_flows: usize,
    /// Whether there are more flows than that, as logged last.
    crowded: bool,
}

impl ConnectionKeeper {
    /// `max_flows`: capacity for flows of one address family.
    pub(super) fn new(pins: Pins, max_flows: u32) -> Self {
        METRICS.max_flows.set(max_flows.into());
        let max_flows = max_flows as usize;
        Self { pins, last: None, round: None, failed: None, max_flows, crowded: false }
    }

    /// Begins a round if it is time. To be called every second, say. `timeouts`: the connection tracker's.
    pub(super) async fn keep(&mut self, timeouts: Timeouts) {
        if self.round.as_ref().is_some_and(|round| !round.is_finished()) {
            return;
        }
        if let Some(round) = self.round.take() {
            self.note(round.await.context("a round has ended").flatten());
        }
        if !timeouts.exist() || self.last.is_some_and(|(begin, _)| begin.elapsed() < period(&timeouts)) {
            return;
        }
        let before = self.last.and_then(|(_, round)| round).filter(|_| self.failed.is_none());
        let round = clock::now(&self.pins).map(|now| Round::new(timeouts, now, before));
        self.last = Some((Instant::now(), round.as_ref().ok().copied()));
        let pins = self.pins.clone();
        self.round = Some(spawn_blocking(move || round?.run(&pins)));
    }

    /// Says once why rounds fail, and once when there are more flows than entries.
    fn note(&mut self, result: Result<InUse>) {
        if let Ok(in_use) = &result {
            self.note_flows(*in_use);
        }
        let failed = result.err().map(|error| format!("{error:#}"));
        if let Some(why) = failed.as_ref().filter(|why| self.failed.as_ref() != Some(why)) {
            warn!(
                "the connection tracker cannot be told about single connections: idle ones may be forgotten after \
                 nf_conntrack_tcp_timeout_unacknowledged: {why}"
            );
        }
        self.failed = failed;
    }

    fn note_flows(&mut self, InUse { v4, v6 }: InUse) {
        for (family, flows) in [("ipv4", v4), ("ipv6", v6)] {
            METRICS.flows.get_or_create(&Family { family }).set(flows.entries as i64);
            METRICS.translated_flows.get_or_create(&Family { family }).set(flows.translated as i64);
        }
        let (flows, max) = (v4.entries.max(v6.entries), self.max_flows);
        if !self.crowded && is_crowded(flows, max) {
            self.crowded = true;
            warn!(
                flows,
                max,
                "flows that skip the host stack fill their map: of more some take turns, and the others go through the \
                 stack. --max-flows makes room"
            );
        } else if self.crowded && flows < max / 2 {
            self.crowded = false;
            info!(flows, max, "the map of flows has room again");
        }
    }
}

impl Drop for ConnectionKeeper {
    /// Nobody counts flows any more. The next keeper does so again at once.
    fn drop(&mut self) {
        METRICS.flows.clear();
        METRICS.translated_flows.clear();
    }
}

/// Returns whether a map with this capacity is as good as full: some entries are always between two proofs.
const fn is_crowded(flows: usize, max: usize) -> bool {
    flows >= max / 4 * 3
}

/// Returns the time between two rounds: an idle connection is found before it is forgotten, if it is found so soon after its
/// proof has ended, which lasts a third of the timeout, too.
fn period(timeouts: &Timeouts) -> Duration {
    (Duration::from_secs(timeouts.shortest_established.into()) / 3).min(PERIOD)
}

/// What one round wants. Times in nanoseconds of the programs' clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Round {
    now: u64,
    /// How long a proof holds.
    proof: u64,
    /// Connections whose last packet has passed the stack before were judged as idle in an earlier round.
    judged: u64,
    /// After how many seconds without packets an established connection is forgotten.
    established: u32,
    /// Flags to clear, idle or not.
    clear: u8,
}

impl Round {
    /// `before`: the round before, if it has succeeded.
    fn new(timeouts: Timeouts, now: u64, before: Option<Self>) -> Self {
        let proof = u64::from(Proofs::within(&timeouts).tcp) * 1_000_000;
        let judged = before.map_or(0, |before| before.now.saturating_sub(before.proof));
        let clear = if ignores_invalid_resets() { 0 } else { MAXACK_SET };
        Self { now, proof, judged, established: timeouts.established, clear }
    }

    /// Looks at all connections, and changes what is wrong. Returns how many flows are in use.
    fn run(self, pins: &Pins) -> Result<InUse> {
        let begin = Instant::now();
        let tracker = Tracker::open()?;
        let (mut seen, mut changed, mut result) = (0, 0, Ok(()));
        let in_use = connections(pins, self.now.saturating_sub(PROOF_NS), |some| {
            if result.is_ok() {
                result = self.keep(&tracker, some).map(|changes| {
                    seen += some.len();
                    changed += changes;
                });
            }
        })?;
        debug!(seen, changed, ?in_use, time = ?begin.elapsed(), "connections that skip the stack");
        result.map(|()| in_use)
    }

    /// Changes what is wrong about these. Returns how many were wrong.
    fn keep(&self, tracker: &Tracker, some: &[Connection]) -> Result<usize> {
        let due: Vec<_> = some.iter().filter(|one| self.is_due(one)).collect();
        let tuples: Vec<_> =
            due.iter().map(|one| Tuple { source: one.pod, destination: one.remote }).collect();
        let entries = tracker.entries(&tuples)?;
        let judged = due.iter().zip(&entries).map(|(one, entry)| self.change(one, &(*entry)?));
        let changes: Vec<_> =
            tuples.iter().zip(judged).filter_map(|(tuple, change)| Some((*tuple, change?))).collect();
        tracker.change(&changes)?;
        Ok(changes.len())
    }

    /// Returns whether something about this may be wrong that was right in the round before.
    fn is_due(&self, connection: &Connection) -> bool {
        last(connection) >= self.judged
    }

    /// Returns what is to be changed about a connection.
    fn change(&self, connection: &Connection, entry: &Entry) -> Option<Change> {
        if entry.state != ESTABLISHED {
            return None;
        }
        let mut clear = self.clear;
        let mut timeout = None;
        if self.is_idle(connection) && is_answered(connection) {
            clear |= UNACKNOWLEDGED;
            let idle = u32::try_from((self.now - last(connection)) / 1_000_000_000).unwrap_or(u32::MAX);
            let left = self.established.saturating_sub(idle);
            timeout = Some(left).filter(|left| *left > entry.timeout.saturating_add(1));
        }
        let is_right = |flags: u8| flags & BE_LIBERAL != 0 && flags & clear == 0;
        let is_wrong = timeout.is_some() || !entry.flags.into_iter().all(is_right);
        is_wrong.then_some(Change { set: BE_LIBERAL, clear, timeout })
    }

    /// Returns whether no packet has come for so long that it would have passed the stack.
    const fn is_idle(&self, connection: &Connection) -> bool {
        self.now.saturating_sub(last(connection)) > self.proof
    }
}

/// Returns when a packet has last passed the stack.
const fn last(connection: &Connection) -> u64 {
    if connection.sent > connection.received { connection.sent } else { connection.received }
}

/// Returns whether both sides have sent until the end. One that gets no answer sends the same again, and gives up after a
/// quarter of an hour: such a connection is to be forgotten soon, as without the shortcut.
const fn is_answered(connection: &Connection) -> bool {
    connection.sent.abs_diff(connection.received) <= PROOF_NS + TRANSIT_NS
}

#[cfg(test)]
mod tests;
