//! The metrics that `/metrics` serves to Prometheus. `docs/metrics.md` lists them.
//!
//! They are global, as logging is, and are counted where things happen. `text` has their names and what they mean.

mod classic;
mod labels;
mod requests;
mod text;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use flannel_common::outcome::Outcome;
use ipnet::IpNet;
use prometheus_client::collector::Collector;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Metric;
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;

pub use labels::{
    Action, Dataplane, EventLabels, Failure, FailureKind, Family, FirewallSync, MissLabels, Probed,
    Reachable, Repair, Repaired, RequestLabels, RequestResult, SyncResult,
};
pub use requests::{Request, Requests};
pub use text::Format;

/// The agent's metrics.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::default);

/// All metrics of an agent.
#[derive(Debug)]
pub struct Metrics {
    /// 1 while `/readyz` succeeds.
    pub ready: Gauge,
    /// Other nodes' leases in kernel and maps.
    pub leases: Gauge,
    /// Those of them that the datastore no longer has.
    pub held_leases: Gauge,
    /// 1 while the leases are watched, 0 while the datastore is unreachable.
    pub datastore_up: Gauge,
    /// Requests to the datastore, by result.
    pub datastore_requests: Requests,
    /// Comparisons of the firewall rules with the wanted ones.
    pub firewall_syncs: Metric<FirewallSync, Counter>,
    /// Entries of flows with a recent proof, by address family.
    pub flows: Metric<Family, Gauge>,
    /// Flows with a recent proof whose addresses or ports the host translates.
    pub translated_flows: Metric<Family, Gauge>,
    /// Capacity for flows of one family.
    pub max_flows: Gauge,
    /// 1 while packets take a slower way than was asked for.
    pub dataplane_degraded: Gauge,
    peers: Metric<Family, Gauge>,
    peer_reachable: Metric<Probed, Gauge>,
    reconcile_actions: Metric<Action, Counter>,
    repairs: Metric<Repair, Counter>,
    errors: Metric<Failure, Counter>,
    problems: Metric<Failure, Gauge>,
    misses: Metric<MissLabels, Counter>,
    events: Metric<EventLabels, Counter>,
    dataplane: Metric<Dataplane, Gauge>,
    lease_end: Mutex<Option<Instant>>,
    collectors: Mutex<Vec<Weak<dyn Collector>>>,
}

impl Default for Metrics {
    /// Has all kinds of failures and repairs at 0: Prometheus does not see the first of a kind otherwise.
    fn default() -> Self {
        let metrics = Self {
            ready: Gauge::default(),
            leases: Gauge::default(),
            held_leases: Gauge::default(),
            datastore_up: Gauge::default(),
            datastore_requests: Requests::default(),
            firewall_syncs: Metric::default(),
            flows: Metric::default(),
            translated_flows: Metric::default(),
            max_flows: Gauge::default(),
            dataplane_degraded: Gauge::default(),
            peers: Metric::default(),
            peer_reachable: Metric::default(),
            reconcile_actions: Metric::default(),
            repairs: Metric::default(),
            errors: Metric::default(),
            problems: Metric::default(),
            misses: Metric::default(),
            events: Metric::default(),
            dataplane: Metric::default(),
            lease_end: Mutex::default(),
            collectors: Mutex::default(),
        };
        for kind in FailureKind::ALL.iter().copied() {
            drop(metrics.errors.get_or_create(&Failure { kind }));
            drop(metrics.problems.get_or_create(&Failure { kind }));
        }
        for object in Repaired::ALL.iter().copied() {
            drop(metrics.repairs.get_or_create(&Repair { object }));
        }
        metrics
    }
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
        for (action, count) in ["set", "remove"].into_iter().zip([set, removed]) {
            if count > 0 {
                self.reconcile_actions.get_or_create(&Action { object, action }).inc_by(count as u64);
            }
        }
    }

    /// Counts things that another program has changed or removed, and that are put right.
    pub fn count_repairs(&self, object: Repaired, count: usize) {
        self.repairs.get_or_create(&Repair { object }).inc_by(count as u64);
    }

    /// Counts a comparison of the firewall rules of one family with the wanted ones.
    pub fn count_firewall_sync(&self, family: &'static str, result: SyncResult) {
        self.firewall_syncs.get_or_create(&FirewallSync { family, result }).inc();
    }

    /// Sets the number of other nodes' subnets that this node has a way to.
    pub fn set_peers(&self, v4: usize, v6: usize) {
        for (family, peers) in [("ipv4", v4), ("ipv6", v6)] {
            self.peers.get_or_create(&Family { family }).set(peers.try_into().unwrap_or(i64::MAX));
        }
    }

    /// Sets how many subnets of other nodes are reachable, are not, and may be, of both address families.
    pub fn set_reachable(&self, subnets: impl IntoIterator<Item = (IpNet, Reachable)>) {
        let mut counts = BTreeMap::new();
        for (subnet, reachable) in subnets {
            let family = if subnet.addr().is_ipv4() { "ipv4" } else { "ipv6" };
            *counts.entry((family, reachable)).or_default() += 1;
        }
        for family in ["ipv4", "ipv6"] {
            for reachable in Reachable::ALL.iter().copied() {
                let count = counts.get(&(family, reachable)).copied().unwrap_or_default();
                self.peer_reachable.get_or_create(&Probed { family, reachable }).set(count);
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

    /// Adds a collector, which is called whenever the metrics are read. It is removed when the registration
    /// is dropped.
    pub fn register(&self, collector: impl Collector) -> Registration {
        let collector: Arc<dyn Collector> = Arc::new(collector);
        let mut collectors = lock(&self.collectors);
        collectors.retain(|collector| collector.strong_count() > 0);
        collectors.push(Arc::downgrade(&collector));
        Registration(collector)
    }
}

/// Locks a value that is whole even if a thread panicked while it held the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::time::Duration;

    use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
    use prometheus_client::metrics::gauge::ConstGauge;

    use super::*;

    #[test]
    fn the_text_names_what_was_counted() {
        let metrics = Metrics::default();
        metrics.leases.set(3);
        metrics.count_failure(FailureKind::Renewal);
        metrics.count_changes("route", 2, 0);
        metrics.set_dataplane("bpf");
        metrics.set_dataplane("netlink");
        let lasting = metrics.lasting(FailureKind::Firewall);
        drop(metrics.lasting(FailureKind::Programs));
        metrics.set_lease_end(Some(Instant::now() + Duration::from_secs(60)));
        let text = metrics.text(Format::OpenMetrics).unwrap();
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
        let shown = || metrics.text(Format::OpenMetrics).unwrap().contains("flannel_answer 42");
        let registration = metrics.register(Answer);
        assert!(shown());
        drop(registration);
        assert!(!shown());
    }
}
