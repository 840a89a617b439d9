//! What the running agent alone knows, for `flannel-agent status`: a small document, which [`server`] hands out on a Unix socket.
//!
//! It is global, as the metrics are, and is filled where things happen. What the metrics have is taken from there.

mod document;
pub mod feed;
pub mod server;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

pub use self::document::{
    AgentReport, Carrying, Datastore, Lasting, Lease, Repair, Rules, SCHEMA, SlowPort, spoken,
};
use self::feed::{FEED, What};
use crate::metrics::{FailureKind, METRICS, Repaired};

/// The longest text in the document in bytes. Some errors have the verifier's log.
const LONGEST: usize = 600;
/// So many ports without the shortcut are listed.
const PORTS: usize = 50;
/// So many repairs are remembered.
const REPAIRS: usize = 8;

/// The state of this agent.
pub static REPORT: LazyLock<Reporter> = LazyLock::new(Reporter::default);

/// Collects what [`AgentReport`] has beside the metrics.
#[derive(Debug)]
pub struct Reporter(Mutex<State>);

#[derive(Debug)]
struct State {
    started: Instant,
    network: Option<String>,
    carrying: Option<Carrying>,
    holds_lease: bool,
    datastore: String,
    datastore_since: Option<Instant>,
    last_change: Option<Instant>,
    outage: Option<String>,
    rules: Option<(&'static str, Instant)>,
    /// By the order in which they began.
    problems: BTreeMap<u64, OpenProblem>,
    next_problem: u64,
    repairs: VecDeque<Mended>,
}

#[derive(Debug)]
struct OpenProblem {
    kind: FailureKind,
    since: Instant,
    texts: Vec<String>,
}

#[derive(Debug)]
struct Mended {
    last: Instant,
    text: String,
    times: u64,
}

/// A problem in the report, until it is dropped.
#[derive(Debug)]
#[must_use = "the problem is over when this is dropped"]
pub struct ReportedProblem(u64);

impl Default for Reporter {
    fn default() -> Self {
        Self(Mutex::new(State {
            started: Instant::now(),
            network: None,
            carrying: None,
            holds_lease: false,
            datastore: String::new(),
            datastore_since: None,
            last_change: None,
            outage: None,
            rules: None,
            problems: BTreeMap::new(),
            next_problem: 0,
            repairs: VecDeque::new(),
        }))
    }
}

impl Reporter {
    /// The agent starts, with this datastore.
    pub fn start(&self, datastore: String) {
        let mut state = self.state();
        state.started = Instant::now();
        state.datastore = datastore;
    }

    /// Sets the network's name on this node.
    pub fn set_network(&self, name: Option<String>) {
        self.state().network = name;
    }

    /// Sets how packets are carried.
    pub fn set_carrying(&self, mut carrying: Carrying) {
        carrying.slow_ports_in_all = carrying.slow_ports.len();
        carrying.slow_ports.truncate(PORTS);
        for text in carrying.slow_ports.iter_mut().map(|port| &mut port.why) {
            shorten(text);
        }
        [&mut carrying.without_bpf, &mut carrying.shortcoming].into_iter().flatten().for_each(shorten);
        self.state().carrying = Some(carrying);
    }

    /// Sets whether the node holds a lease.
    pub fn set_holds_lease(&self, holds: bool) {
        if std::mem::replace(&mut self.state().holds_lease, holds) != holds {
            FEED.tell(|| [What::Lease { held: holds }]);
        }
    }

    /// The datastore answers: the leases are watched.
    pub fn datastore_answers(&self) {
        let mut state = self.state();
        if METRICS.datastore_up.set(1) == 0 || state.datastore_since.is_none() {
            state.datastore_since = Some(Instant::now());
            FEED.tell(|| [What::Datastore { connected: true, why: None }]);
        }
        state.outage = None;
    }

    /// The datastore cannot be reached.
    pub fn datastore_is_away(&self, why: &anyhow::Error) {
        let mut state = self.state();
        let why = shortened(format!("{why:#}"));
        if METRICS.datastore_up.set(0) == 1 {
            state.datastore_since = Some(Instant::now());
            FEED.tell(|| [What::Datastore { connected: false, why: Some(why.clone()) }]);
        }
        state.outage = Some(why);
    }

    /// The datastore has sent leases.
    pub fn datastore_changed(&self) {
        self.state().last_change = Some(Instant::now());
    }

    /// The firewall's rules are complete. `tool`: what writes them.
    pub fn rules_are_complete(&self, tool: &'static str) {
        self.state().rules = Some((tool, Instant::now()));
    }

    /// So many things of a kind, which others had changed or removed, have been put right.
    pub fn repaired(&self, what: Repaired, count: usize) {
        METRICS.count_repairs(what, count);
        if count > 0 {
            self.is_over(what.is_right());
        }
    }

    /// Something is well again.
    pub fn is_over(&self, text: impl Into<String>) {
        let (text, last) = (shortened(text.into()), Instant::now());
        FEED.tell(|| [What::Repair { text: text.clone() }]);
        let repairs = &mut self.state().repairs;
        let known = repairs.iter().position(|known| known.text == text);
        let times = known.and_then(|known| repairs.remove(known)).map_or(0, |known| known.times) + 1;
        repairs.push_front(Mended { last, text, times });
        repairs.truncate(REPAIRS);
    }

    /// A problem has begun.
    pub fn problem(&self, kind: FailureKind) -> ReportedProblem {
        let mut state = self.state();
        let number = state.next_problem;
        state.next_problem += 1;
        state.problems.insert(number, OpenProblem { kind, since: Instant::now(), texts: Vec::new() });
        ReportedProblem(number)
    }

    /// Returns the document.
    #[must_use]
    pub fn read(&self) -> AgentReport {
        let state = self.state();
        let now = Instant::now();
        let since = |time: Instant| now.saturating_duration_since(time).as_secs();
        let lease = match METRICS.lease_end() {
            _ if !state.holds_lease => Lease::None,
            Some(end) => Lease::Ends { left: end.saturating_duration_since(now).as_secs() },
            None => Lease::Reserved,
        };
        AgentReport {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            runs_for: since(state.started),
            ready: METRICS.ready.get() == 1,
            network: state.network.clone(),
            carrying: state.carrying.clone(),
            nodes: METRICS.leases.get(),
            held_nodes: METRICS.held_leases.get(),
            lease,
            datastore: Datastore {
                name: state.datastore.clone(),
                connected: METRICS.datastore_up.get() == 1,
                since: state.datastore_since.map(since),
                last_change: state.last_change.map(since),
                why: state.outage.clone(),
            },
            firewall: state.rules.map(|(tool, at)| Rules { tool: tool.to_owned(), complete: since(at) }),
            problems: state.problems.values().map(|problem| problem.report(since(problem.since))).collect(),
            repairs: state.repairs.iter().map(|repair| repair.report(since(repair.last))).collect(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // It is whole even if a thread panicked while it held the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenProblem {
    fn report(&self, lasts: u64) -> Lasting {
        Lasting { kind: self.kind.name().to_owned(), lasts, texts: self.texts.clone() }
    }
}

impl Mended {
    fn report(&self, ago: u64) -> Repair {
        Repair { ago, text: self.text.clone(), times: self.times }
    }
}

impl ReportedProblem {
    /// Sets what has failed this time.
    pub fn say(&self, texts: Vec<String>) {
        if let Some(problem) = REPORT.state().problems.get_mut(&self.0) {
            let texts: Vec<_> = texts.into_iter().map(shortened).collect();
            if texts != problem.texts {
                FEED.tell(|| [What::Problem { work: problem.kind.name().to_owned(), texts: texts.clone() }]);
            }
            problem.texts = texts;
        }
    }
}

impl Drop for ReportedProblem {
    fn drop(&mut self) {
        REPORT.state().problems.remove(&self.0);
    }
}

fn shortened(mut text: String) -> String {
    shorten(&mut text);
    text
}

fn shorten(text: &mut String) {
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn repairs_are_counted_by_their_text_and_the_newest_come_first() {
        let reporter = Reporter::default();
        for text in ["a", "b", "a"] {
            reporter.is_over(text);
            tokio::time::advance(Duration::from_secs(5)).await;
        }
        let repair = |ago, text: &str, times| Repair { ago, text: text.to_owned(), times };
        assert_eq!(reporter.read().repairs, [repair(5, "a", 2), repair(10, "b", 1)]);
        (0..100).for_each(|number| reporter.is_over(number.to_string()));
        assert_eq!(reporter.read().repairs.len(), REPAIRS);
    }

    #[test]
    fn problems_are_reported_until_they_are_dropped() {
        let of_this_test = || {
            let problems = REPORT.read().problems.into_iter();
            problems.filter(|problem| problem.texts == ["only in this test"]).count()
        };
        let problem = REPORT.problem(FailureKind::NodeSetup);
        problem.say(vec!["only in this test".to_owned()]);
        assert_eq!(of_this_test(), 1);
        drop(problem);
        assert_eq!(of_this_test(), 0);
    }

    #[test]
    fn the_document_is_small_and_is_read_back() {
        let reporter = Reporter::default();
        let port = |number| SlowPort { port: format!("veth{number}"), why: "ä".repeat(10_000) };
        let slow_ports = (0..1024).map(port).collect();
        reporter.set_carrying(Carrying { slow_ports, ..Carrying::default() });
        let report = reporter.read();
        let text = serde_json::to_string(&report).unwrap();
        assert!(text.len() < 100_000, "{} bytes", text.len());
        assert_eq!(report.carrying.as_ref().unwrap().slow_ports_in_all, 1024);
        assert_eq!(serde_json::from_str::<AgentReport>(&text).unwrap(), report);
        // Of an agent of another version.
        let other = serde_json::from_str::<AgentReport>(r#"{"schema": 9, "pid": 7, "more": []}"#).unwrap();
        assert_eq!((other.schema, other.pid, other.ready), (9, 7, false));
    }
}
