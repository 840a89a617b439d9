//! The metrics that `/metrics` serves to Prometheus.
//!
//! They are global, as logging is, and are counted where things happen.

use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use flannel_common::outcome::Outcome;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric as _, LabelValueEncoder, text,
};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

/// The agent's metrics.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::default);

/// All metrics of an agent.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Other nodes' leases in kernel and maps.
    pub leases: Gauge,
    /// Those of them that the datastore no longer has.
    pub held_leases: Gauge,
    /// 1 while the leases are watched, 0 while the datastore is unreachable.
    pub datastore_up: Gauge,
    /// Entries written to or removed from the kernel.
    pub reconcile_actions: Family<Action, Counter>,
    /// Failures by kind.
    pub errors: Family<Failure, Counter>,
    /// Problems that last, by kind.
    pub problems: Family<Failure, Gauge>,
    /// Answered questions of the kernel and the programs.
    pub misses: Family<MissLabels, Counter>,
    /// Events reported by the programs.
    pub events: Family<EventLabels, Counter>,
    /// What carries packets: 1 for the dataplane in use.
    pub dataplane: Family<Dataplane, Gauge>,
    /// Entries of flows with a recent proof, by address family.
    pub flows: Family<FlowLabels, Gauge>,
    /// Capacity for flows of one family.
    pub max_flows: Gauge,
    lease_end: Mutex<Option<Instant>>,
    collectors: Mutex<Vec<Weak<dyn Collector>>>,
}

/// What [`Action`] can say.
const OBJECTS: [&str; 4] = ["route", "neighbour", "fdb", "nexthop"];
const ACTIONS: [&str; 2] = ["set", "remove"];

/// Labels of a change to the kernel's entries.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Action {
    /// `route`, `neighbour`, `fdb` or `nexthop`.
    pub object: &'static str,
    /// `set` or `remove`.
    pub action: &'static str,
}

/// Labels of a failure.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Failure {
    /// What failed.
    pub kind: FailureKind,
}

/// What can fail.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum FailureKind {
    /// A request to the datastore.
    Datastore,
    /// An entry of the datastore that is not a usable lease.
    Refused,
    /// Renewing the node's own lease.
    Renewal,
    /// Another node with this node's address has written the node's own lease.
    Contested,
    /// Writing an entry to the kernel or a map.
    Dataplane,
    /// Reading or writing firewall rules.
    Firewall,
    /// Writing the subnet file.
    SubnetFile,
    /// What others have set up on the node and drops pods' packets.
    NodeSetup,
    /// Attaching the BPF programs again, or recognising an earlier agent's.
    Programs,
    /// Answering at the health endpoint.
    Health,
}

impl FailureKind {
    /// Returns its name, which metrics and `flannel-agent status` show.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Datastore => "datastore",
            Self::Refused => "refused-lease",
            Self::Renewal => "renewal",
            Self::Contested => "contested-lease",
            Self::Dataplane => "dataplane",
            Self::Firewall => "firewall",
            Self::SubnetFile => "subnet-file",
            Self::NodeSetup => "node-setup",
            Self::Programs => "programs",
            Self::Health => "health",
        }
    }
}

impl EncodeLabelValue for FailureKind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        EncodeLabelValue::encode(&self.name(), encoder)
    }
}

/// Labels of a question that a lease answers.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct MissLabels {
    /// `neighbour` (the kernel: which MAC has this address), `fdb` (the kernel: which node has this MAC) or
    /// `lease` (the programs: which node leases this address).
    pub kind: &'static str,
    /// `lease` if there is one, else `none`.
    pub answer: &'static str,
}

/// Labels of an event.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct EventLabels {
    /// Name of the [`Outcome`].
    pub outcome: &'static str,
}

/// Labels of the dataplane in use.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Dataplane {
    /// `bpf`, `netlink`, or the backend's name.
    pub name: &'static str,
}

/// Labels of a map of flows.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct FlowLabels {
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
}

/// A problem that lasts.
#[derive(Debug)]
#[must_use = "the problem is over when this is dropped"]
pub struct Lasting(Gauge);

impl Drop for Lasting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Keeps a registered collector registered.
#[derive(Debug)]
#[must_use = "the collector is removed when this is dropped"]
pub struct Registration(#[expect(dead_code, reason = "held, not read")] Arc<dyn Collector>);

impl Metrics {
    /// Counts a failure.
    pub fn count_failure(&self, kind: FailureKind) {
        self.errors.get_or_create(&Failure { kind }).inc();
    }

    /// Counts a problem for as long as the returned value exists.
    pub fn lasting(&self, kind: FailureKind) -> Lasting {
        let gauge = self.problems.get_or_create_owned(&Failure { kind });
        gauge.inc();
        Lasting(gauge)
    }

    /// Counts entries that are set and removed.
    pub fn count_changes(&self, object: &'static str, set: usize, removed: usize) {
        for (action, count) in ACTIONS.into_iter().zip([set, removed]) {
            if count > 0 {
                self.reconcile_actions.get_or_create(&Action { object, action }).inc_by(count as u64);
            }
        }
    }

    /// Counts a question, answered by a lease or not.
    pub fn count_miss(&self, kind: &'static str, answered: bool) {
        let answer = if answered { "lease" } else { "none" };
        self.misses.get_or_create(&MissLabels { kind, answer }).inc();
    }

    /// Counts an event of the programs.
    pub fn count_event(&self, outcome: Outcome) {
        self.events.get_or_create(&EventLabels { outcome: outcome.name() }).inc();
    }

    /// Sets what carries packets.
    pub fn set_dataplane(&self, name: &'static str) {
        self.dataplane.clear();
        self.dataplane.get_or_create(&Dataplane { name }).set(1);
    }

    /// Sets when the node's lease ends; `None` for a reservation.
    pub fn set_lease_end(&self, end: Option<Instant>) {
        *lock(&self.lease_end) = end;
    }

    /// Returns when the node's lease ends; `None` for a reservation, or before there is a lease.
    #[must_use]
    pub fn lease_end(&self) -> Option<Instant> {
        *lock(&self.lease_end)
    }

    /// Returns how many entries were written to the kernel and removed, all in all.
    #[must_use]
    pub fn changes(&self) -> u64 {
        let actions = OBJECTS.into_iter().flat_map(|object| ACTIONS.map(|action| Action { object, action }));
        actions.filter_map(|action| self.reconcile_actions.get(&action).map(|count| count.get())).sum()
    }

    /// Adds a collector, which is called whenever the metrics are read. It is removed when the registration
    /// is dropped.
    pub fn register(&self, collector: impl Collector) -> Registration {
        let collector: Arc<dyn Collector> = Arc::new(collector);
        let mut collectors = lock(&self.collectors);
        collectors.retain(|collector| collector.strong_count() > 0);
        collectors.push(Arc::downgrade(&collector));
        Registration(collector)
    }

    /// Returns all metrics in the OpenMetrics text format.
    ///
    /// # Errors
    /// A collector fails.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("flannel");
        let Self { leases, held_leases, datastore_up, reconcile_actions, .. } = self;
        let Self { errors, problems, misses, events, dataplane, flows, max_flows, .. } = self;
        registry.register("leases", "Other nodes' leases in kernel and maps", leases.clone());
        registry.register(
            "held_leases",
            "Leases in kernel and maps that vanished from the datastore together, and are held for --lease-hold",
            held_leases.clone(),
        );
        registry.register(
            "datastore_up",
            "1 while the leases are watched, 0 while the datastore is unreachable",
            datastore_up.clone(),
        );
        registry.register(
            "reconcile_actions",
            "Entries written to and removed from the kernel",
            reconcile_actions.clone(),
        );
        registry.register("errors", "Failures, by kind", errors.clone());
        registry.register("problems", "Problems that last, by kind: 0 once they are over", problems.clone());
        registry.register(
            "misses",
            "Questions for a neighbour or an FDB entry (kernel), or for a lease (BPF programs)",
            misses.clone(),
        );
        registry.register(
            "events",
            "Events reported by the BPF programs, which limit their rate",
            events.clone(),
        );
        registry.register(
            "dataplane",
            "What carries packets: bpf, netlink or the backend",
            dataplane.clone(),
        );
        registry.register(
            "flows",
            "Entries of flows that a packet has proven in the 10 s before they were counted, once a minute",
            flows.clone(),
        );
        registry.register("max_flows", "Capacity for flows of one address family", max_flows.clone());
        registry.register_collector(Box::new(LeaseLeft(*lock(&self.lease_end))));
        for collector in lock(&self.collectors).iter().filter_map(Weak::upgrade) {
            registry.register_collector(Box::new(Shared(collector)));
        }
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// Locks a value that is whole even if a thread panicked while it held the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A collector that its owner may drop while the metrics are written.
#[derive(Debug)]
struct Shared(Arc<dyn Collector>);

impl Collector for Shared {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }
}

/// The seconds until this time, if there is one.
#[derive(Debug)]
struct LeaseLeft(Option<Instant>);

impl Collector for LeaseLeft {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(end) = self.0 else { return Ok(()) };
        let gauge = ConstGauge::new(end.saturating_duration_since(Instant::now()).as_secs_f64());
        let help = "Time until the node's lease ends unless it is renewed; absent for a reservation";
        let kind = gauge.metric_type();
        gauge.encode(encoder.encode_descriptor("lease_left", help, Some(&Unit::Seconds), kind)?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_text_names_what_was_counted() {
        let metrics = Metrics::default();
        metrics.leases.set(3);
        metrics.count_failure(FailureKind::Renewal);
        metrics.count_changes("route", 2, 0);
        assert_eq!(metrics.changes(), 2);
        metrics.set_dataplane("bpf");
        metrics.set_dataplane("netlink");
        let lasting = metrics.lasting(FailureKind::Firewall);
        drop(metrics.lasting(FailureKind::Programs));
        metrics.set_lease_end(Some(Instant::now() + Duration::from_secs(60)));
        let text = metrics.text().unwrap();
        for line in [
            "flannel_leases 3",
            "flannel_errors_total{kind=\"renewal\"} 1",
            "flannel_reconcile_actions_total{object=\"route\",action=\"set\"} 2",
            "flannel_dataplane{name=\"netlink\"} 1",
            "flannel_problems{kind=\"firewall\"} 1",
            "flannel_problems{kind=\"programs\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in {text}");
        }
        drop(lasting);
        let left = text.lines().find_map(|line| line.strip_prefix("flannel_lease_left_seconds ")).unwrap();
        assert!((50.0..=60.0).contains(&left.parse().unwrap()), "{left}");
        assert!(!text.contains("name=\"bpf\"") && !text.contains("action=\"remove\""), "{text}");
    }

    #[derive(Debug)]
    struct Answer;

    impl Collector for Answer {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
            let gauge = ConstGauge::new(42);
            gauge.encode(encoder.encode_descriptor("answer", "An answer", None, gauge.metric_type())?)
        }
    }

    #[test]
    fn a_collector_is_read_until_its_registration_is_dropped() {
        let metrics = Metrics::default();
        let shown = || metrics.text().unwrap().contains("flannel_answer 42");
        let registration = metrics.register(Answer);
        assert!(shown());
        drop(registration);
        assert!(!shown());
    }
}
