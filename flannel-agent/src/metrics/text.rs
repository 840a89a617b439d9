//! The names of the metrics and what they mean, and their text.

use std::fmt;
use std::sync::{Arc, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, text};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

use super::{Metrics, classic, lock};

/// A text format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus's own format 0.0.4, which every reader knows.
    Classic,
}

impl Format {
    /// Returns the format for a reader that accepts these types (the header `Accept`).
    #[must_use]
    pub fn accepted_by(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Classic }
    }

    /// Returns the format's content type.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

impl Metrics {
    /// Returns all metrics in this format.
    ///
    /// # Errors
    /// A collector fails.
    pub fn text(&self, format: Format) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("flannel");
        self.register_agent(&mut registry);
        self.register_datastore(&mut registry);
        self.register_dataplane(&mut registry);
        self.register_troubles(&mut registry);
        for collector in lock(&self.collectors).iter().filter_map(Weak::upgrade) {
            registry.register_collector(Box::new(Shared(collector)));
        }
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(match format {
            Format::OpenMetrics => text,
            Format::Classic => classic::from_open_metrics(&text),
        })
    }

    fn register_agent(&self, registry: &mut Registry) {
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The agent's version", version);
        registry.register("ready", "1 while /readyz succeeds, else 0", self.ready.clone());
    }

    fn register_datastore(&self, registry: &mut Registry) {
        registry.register(
            "datastore_up",
            "1 while the leases are watched, 0 while the datastore is unreachable",
            self.datastore_up.clone(),
        );
        registry.register_with_unit(
            "datastore_request_duration",
            "Time from a request to etcd or Kubernetes until its answer begins, or that an operation on the files of leases takes",
            Unit::Seconds,
            self.datastore_requests.0.clone(),
        );
        registry.register("leases", "Other nodes' leases in kernel and maps", self.leases.clone());
        registry.register(
            "held_leases",
            "Leases in kernel and maps that vanished from the datastore together, and are held for --lease-hold",
            self.held_leases.clone(),
        );
        registry.register_collector(Box::new(LeaseLeft(*lock(&self.lease_end))));
    }

    fn register_dataplane(&self, registry: &mut Registry) {
        registry.register(
            "peers",
            "Subnets of other nodes that this node has a way to, by address family",
            self.peers.clone(),
        );
        registry.register(
            "peer_reachable",
            "Subnets of other nodes by whether the node answers through the network, with --probe-interval; else absent",
            self.peer_reachable.clone(),
        );
        registry.register(
            "dataplane",
            "What carries packets: bpf, netlink or the backend",
            self.dataplane.clone(),
        );
        registry.register(
            "dataplane_degraded",
            "1 while packets take a slower way than was asked for, and the log says why; else 0",
            self.dataplane_degraded.clone(),
        );
        registry.register(
            "flows",
            "Entries of flows that a packet has proven in the 10 s before they were counted, once a minute",
            self.flows.clone(),
        );
        registry.register(
            "translated_flows",
            "Flows with such a proof that the host translates, to a service for example; each has two entries",
            self.translated_flows.clone(),
        );
        registry.register("max_flows", "Capacity for flows of one address family", self.max_flows.clone());
        registry.register(
            "misses",
            "Questions for a neighbour or an FDB entry (kernel), or for a lease (BPF programs)",
            self.misses.clone(),
        );
        registry.register(
            "events",
            "Events reported by the BPF programs, which limit their rate",
            self.events.clone(),
        );
    }

    fn register_troubles(&self, registry: &mut Registry) {
        registry.register(
            "reconcile_actions",
            "Entries written to and removed from the kernel, for whatever reason",
            self.reconcile_actions.clone(),
        );
        registry.register(
            "repairs",
            "Things found missing or changed by another program, and put right",
            self.repairs.clone(),
        );
        registry.register(
            "firewall_syncs",
            "Comparisons of the firewall rules with the wanted ones, which are written where they differ, by result",
            self.firewall_syncs.clone(),
        );
        registry.register("errors", "Failures, by kind", self.errors.clone());
        registry.register(
            "problems",
            "Problems that last, by kind: 0 once they are over",
            self.problems.clone(),
        );
    }
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
        let help = "Time until the node's lease ends unless it is renewed; absent for a reservation.";
        let kind = gauge.metric_type();
        gauge.encode(encoder.encode_descriptor("lease_left", help, Some(&Unit::Seconds), kind)?)
    }
}
