//! What `/metrics` tells: one list of everything that is counted, for Prometheus.
//!
//! Counting is global, as logging is: who has something to count does so where it happens.

use std::sync::{LazyLock, Mutex, PoisonError};

use flannel_common::outcome::Outcome;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric as _, LabelValueEncoder, text,
};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

use crate::dataplane::bpf::counters;
use crate::dataplane::bpf::pins::Pins;

/// The agent's figures.
pub static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::default);

/// What is counted.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Other nodes' leases that kernel and maps are made from.
    pub leases: Gauge,
    /// Whether the leases are being watched: 1, or 0 while the datastore is away.
    pub datastore_up: Gauge,
    /// Entries written to or removed from the kernel.
    pub reconcile_actions: Family<Action, Counter>,
    /// What failed.
    pub errors: Family<Failure, Counter>,
    /// Questions of kernel and programs that were answered.
    pub misses: Family<MissLabels, Counter>,
    /// What the programs have told.
    pub events: Family<Told, Counter>,
    /// What moves the packets: 1 for the one in use.
    pub dataplane: Family<Dataplane, Gauge>,
    lease_ends: Mutex<Option<Instant>>,
    pins: Mutex<Option<Pins>>,
}

/// Which entries, and what was done to them.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Action {
    /// What they are: `route`, `neighbour`, `fdb`, `nexthop`.
    pub object: &'static str,
    /// `set` or `remove`.
    pub action: &'static str,
}

/// What was being done when it failed.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Failure {
    /// The part that failed.
    pub kind: Kind,
}

/// Parts that can fail.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Kind {
    /// A request to the datastore.
    Datastore,
    /// An entry of the datastore that is no lease for us.
    Refused,
    /// The lease could not be renewed.
    Renewal,
    /// Kernel or map refused an entry.
    Dataplane,
    /// Firewall rules could not be read or written.
    Firewall,
}

impl EncodeLabelValue for Kind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let name = match self {
            Self::Datastore => "datastore",
            Self::Refused => "refused-lease",
            Self::Renewal => "renewal",
            Self::Dataplane => "dataplane",
            Self::Firewall => "firewall",
        };
        EncodeLabelValue::encode(&name, encoder)
    }
}

/// A question that a lease is the answer to.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct MissLabels {
    /// The kernel's `neighbour` (which MAC has this address) or `fdb` (which node has this MAC), or the programs' `lease`
    /// (who leases this address).
    pub kind: &'static str,
    /// `lease`: answered; `none`: nobody leases it.
    pub answer: &'static str,
}

/// What befell a packet that the programs told of.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Told {
    /// Name of the [`Outcome`].
    pub outcome: &'static str,
}

/// `bpf` or `netlink`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Dataplane {
    /// Its name.
    pub name: &'static str,
}

impl Metrics {
    /// Something failed.
    pub fn failed(&self, kind: Kind) {
        self.errors.get_or_create(&Failure { kind }).inc();
    }

    /// Entries of this kind were written and removed.
    pub fn reconciled(&self, object: &'static str, set: usize, removed: usize) {
        for (action, count) in [("set", set), ("remove", removed)] {
            if count > 0 {
                self.reconcile_actions.get_or_create(&Action { object, action }).inc_by(count as u64);
            }
        }
    }

    /// Somebody has asked for this, and a lease was the answer, or none.
    pub fn missed(&self, kind: &'static str, answered: bool) {
        let answer = if answered { "lease" } else { "none" };
        self.misses.get_or_create(&MissLabels { kind, answer }).inc();
    }

    /// The programs have told of a packet.
    pub fn told(&self, outcome: Outcome) {
        self.events.get_or_create(&Told { outcome: outcome.name() }).inc();
    }

    /// From now on packets are moved so.
    pub fn dataplane_is(&self, name: &'static str) {
        self.dataplane.clear();
        self.dataplane.get_or_create(&Dataplane { name }).set(1);
    }

    /// Our lease ends then, or never.
    pub fn lease_ends(&self, ends: Option<Instant>) {
        *self.lease_ends.lock().unwrap_or_else(PoisonError::into_inner) = ends;
    }

    /// The programs' counters are here; nowhere without programs.
    pub fn count_packets_of(&self, pins: Option<Pins>) {
        *self.pins.lock().unwrap_or_else(PoisonError::into_inner) = pins;
    }

    /// Everything in the OpenMetrics text format.
    ///
    /// # Errors
    /// Never: writing to memory does not fail.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix("flannel");
        let Self { leases, datastore_up, reconcile_actions, errors, misses, events, dataplane, .. } = self;
        registry.register("leases", "Other nodes' leases in kernel and maps", leases.clone());
        registry.register("datastore_up", "Whether the leases are being watched", datastore_up.clone());
        registry.register(
            "reconcile_actions",
            "Entries written to and removed from the kernel",
            reconcile_actions.clone(),
        );
        registry.register("errors", "What failed, by part", errors.clone());
        registry.register(
            "misses",
            "Questions for a neighbour, an FDB entry (the kernel's) or a lease (the programs')",
            misses.clone(),
        );
        registry.register(
            "events",
            "Packets that the programs told of, so many a second at most",
            events.clone(),
        );
        registry.register("dataplane", "What moves the packets: bpf or netlink", dataplane.clone());
        registry.register_collector(Box::new(self.now()));
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(text)
    }

    /// What is read when it is asked for.
    fn now(&self) -> Now {
        let ends = *self.lease_ends.lock().unwrap_or_else(PoisonError::into_inner);
        let pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Now {
            lease_left: ends.map(|ends| ends.saturating_duration_since(Instant::now()).as_secs_f64()),
            packets: pins.and_then(|pins| counters::read(&pins).ok()).unwrap_or_default(),
        }
    }
}

#[derive(Debug)]
struct Now {
    lease_left: Option<f64>,
    packets: counters::Counters,
}

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        if let Some(left) = self.lease_left {
            let gauge = ConstGauge::new(left);
            let help = "Time until our lease ends unless it is renewed; absent for a reservation";
            let kind = gauge.metric_type();
            gauge.encode(encoder.encode_descriptor("lease_left", help, Some(&Unit::Seconds), kind)?)?;
        }
        let help = "Packets that the BPF programs have seen, by what became of them";
        let kind = ConstCounter::new(0u64).metric_type();
        let mut family = encoder.encode_descriptor("packets", help, None, kind)?;
        for (key, traffic) in &self.packets {
            let labels = [("outcome", key.outcome.name()), ("program", key.hook.program())];
            ConstCounter::new(traffic.packets).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
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
        metrics.failed(Kind::Renewal);
        metrics.reconciled("route", 2, 0);
        metrics.dataplane_is("bpf");
        metrics.dataplane_is("netlink");
        metrics.lease_ends(Some(Instant::now() + Duration::from_secs(60)));
        let text = metrics.text().unwrap();
        for line in [
            "flannel_leases 3",
            "flannel_errors_total{kind=\"renewal\"} 1",
            "flannel_reconcile_actions_total{object=\"route\",action=\"set\"} 2",
            "flannel_dataplane{name=\"netlink\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in {text}");
        }
        let left = text.lines().find_map(|line| line.strip_prefix("flannel_lease_left_seconds ")).unwrap();
        assert!((50.0..=60.0).contains(&left.parse().unwrap()), "{left}");
        assert!(!text.contains("name=\"bpf\"") && !text.contains("action=\"remove\""), "{text}");
    }
}
