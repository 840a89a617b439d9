//! What is measured, and in which unit.

use clap::ValueEnum;
use serde::Serialize;

use super::scenario::{Measured, PAYLOAD, Scenario};
use super::series::percentile;

/// A figure of a variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(super) enum Metric {
    /// Small datagrams of one flow: packets received per second
    Flood,
    /// CPU time of these
    FloodCpu,
    /// Small datagrams of 16 flows
    #[value(name = "flows-16")]
    Flows16,
    /// Small datagrams of 1000 flows
    #[value(name = "flows-1000")]
    Flows1000,
    /// Small datagrams of 100 000 flows, more than the agent's table of flows holds
    #[value(name = "flows-100000")]
    Flows100000,
    /// CPU time of these
    #[value(name = "flows-100000-cpu")]
    Flows100000Cpu,
    /// TCP at full speed: bits received per second
    Bulk,
    /// CPU time of that
    BulkCpu,
    /// One-byte datagrams sent back one at a time: round trips per second
    RoundTrips,
    /// The time that half of these take at most
    LatencyP50,
    /// The time that 99 % of these take at most
    LatencyP99,
    /// The time that 99.9 % of these take at most
    LatencyP999,
    /// TCP connections with a byte each way, one at a time
    Connections,
    /// The time that half of these take at most
    ConnectionP50,
}

/// What a metric's values are. Times are in seconds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    PerSecond,
    BitsPerSecond,
    /// Of CPU time, for a million packets or a gigabyte.
    CpuTime,
    Latency,
}

impl Metric {
    pub(super) const ALL: [Self; 14] = [
        Self::Flood,
        Self::FloodCpu,
        Self::Flows16,
        Self::Flows1000,
        Self::Flows100000,
        Self::Flows100000Cpu,
        Self::Bulk,
        Self::BulkCpu,
        Self::RoundTrips,
        Self::LatencyP50,
        Self::LatencyP99,
        Self::LatencyP999,
        Self::Connections,
        Self::ConnectionP50,
    ];
    /// Those of a run that names none. They need three scenarios.
    const USUAL: [Self; 7] = [
        Self::Flood,
        Self::FloodCpu,
        Self::Bulk,
        Self::BulkCpu,
        Self::RoundTrips,
        Self::LatencyP50,
        Self::LatencyP99,
    ];

    /// Returns those in `only`, or the usual ones, without repetitions.
    pub(super) fn chosen(only: &[Self]) -> Vec<Self> {
        let wanted = if only.is_empty() { &Self::USUAL } else { only };
        Self::ALL.into_iter().filter(|metric| wanted.contains(metric)).collect()
    }

    /// Returns the traffic, the title without its unit, and the unit.
    fn facts(self) -> (Scenario, String, Unit) {
        let flows = |flows, unit| {
            let title = format!("UDP flood of {flows} flows, {PAYLOAD}-byte payload");
            (Scenario::Flows(flows), title, unit)
        };
        let flood = || format!("UDP flood, {PAYLOAD}-byte payload");
        let bulk = || "TCP bulk, one connection".to_owned();
        let trips = |part| format!("UDP request/response, 1 byte{part}");
        let connections = |part| format!("TCP connections, a byte each way{part}");
        match self {
            Self::Flood => (Scenario::Flood, flood(), Unit::PerSecond),
            Self::FloodCpu => (Scenario::Flood, flood(), Unit::CpuTime),
            Self::Flows16 => flows(16, Unit::PerSecond),
            Self::Flows1000 => flows(1000, Unit::PerSecond),
            Self::Flows100000 => flows(100_000, Unit::PerSecond),
            Self::Flows100000Cpu => flows(100_000, Unit::CpuTime),
            Self::Bulk => (Scenario::Bulk, bulk(), Unit::BitsPerSecond),
            Self::BulkCpu => (Scenario::Bulk, bulk(), Unit::CpuTime),
            Self::RoundTrips => (Scenario::RoundTrips, trips(""), Unit::PerSecond),
            Self::LatencyP50 => (Scenario::RoundTrips, trips(", half of them"), Unit::Latency),
            Self::LatencyP99 => (Scenario::RoundTrips, trips(", 99 % of them"), Unit::Latency),
            Self::LatencyP999 => (Scenario::RoundTrips, trips(", 99.9 % of them"), Unit::Latency),
            Self::Connections => (Scenario::Connections, connections(""), Unit::PerSecond),
            Self::ConnectionP50 => (Scenario::Connections, connections(", half of them"), Unit::Latency),
        }
    }

    /// Returns the traffic that it is a figure of.
    pub(super) fn scenario(self) -> Scenario {
        self.facts().0
    }

    /// Returns the heading in table and picture.
    pub(super) fn title(self) -> String {
        let (scenario, title, unit) = self.facts();
        let unit = match (unit, scenario) {
            (Unit::PerSecond, Scenario::Flood | Scenario::Flows(_)) => "packets/s received",
            (Unit::PerSecond, Scenario::RoundTrips) => "round trips/s",
            (Unit::PerSecond, _) => "connections/s",
            (Unit::BitsPerSecond, _) => "Gbit/s received",
            (Unit::CpuTime, Scenario::Bulk) => "CPU s per GB",
            (Unit::CpuTime, _) => "CPU s per million packets",
            (Unit::Latency, _) => "\u{b5}s at most",
        };
        format!("{title}: {unit}")
    }

    /// Returns whether less is better. Ratios say how many times as good something is in any case.
    pub(super) fn is_cost(self) -> bool {
        matches!(self.facts().2, Unit::CpuTime | Unit::Latency)
    }

    /// Returns the value of this metric, if it is one of what was measured.
    pub(super) fn value(self, measured: &Measured) -> Option<f64> {
        Some(match (self.facts().2, measured) {
            (Unit::PerSecond, Measured::Flood(received)) => received.per_second(),
            (Unit::CpuTime, Measured::Flood(received)) => {
                received.cpu.as_secs_f64() / received.packets as f64 * 1e6
            }
            (Unit::BitsPerSecond, Measured::Bulk(bulk)) => bulk.bits_per_second(),
            (Unit::CpuTime, Measured::Bulk(bulk)) => bulk.cpu.as_secs_f64() / bulk.bytes as f64 * 1e9,
            (Unit::PerSecond, Measured::RoundTrips(times) | Measured::Connections(times)) => {
                times.per_second()
            }
            (Unit::Latency, Measured::RoundTrips(times) | Measured::Connections(times)) => {
                percentile(&times.each, self.part())
            }
            _ => return None,
        })
    }

    /// Returns which part of the samples a latency is of.
    fn part(self) -> f64 {
        match self {
            Self::LatencyP999 => 0.999,
            Self::LatencyP99 => 0.99,
            _ => 0.5,
        }
    }

    /// Returns the value in the title's unit.
    pub(super) fn show(self, value: f64) -> String {
        match self.facts().2 {
            Unit::PerSecond => format!("{value:.0}"),
            Unit::BitsPerSecond => format!("{:.2}", value / 1e9),
            Unit::CpuTime => format!("{value:.3}"),
            Unit::Latency => format!("{:.2}", value * 1e6),
        }
    }

    /// Returns the value in few characters.
    pub(super) fn show_short(self, value: f64) -> String {
        match self.facts().2 {
            Unit::PerSecond => format!("{:.1}k", value / 1e3),
            Unit::BitsPerSecond => format!("{:.1}G", value / 1e9),
            Unit::CpuTime => format!("{value:.2}s"),
            Unit::Latency => format!("{:.1}\u{b5}s", value * 1e6),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use flannel_tests::traffic::{Bulk, Times};

    use super::*;

    #[test]
    fn the_list_has_every_metric_in_its_order() {
        assert_eq!(Metric::ALL, Metric::value_variants());
        assert!(Metric::ALL.iter().enumerate().all(|(place, metric)| *metric as usize == place));
    }

    #[test]
    fn a_run_that_names_no_metric_has_three_scenarios() {
        let mut scenarios: Vec<_> = Metric::chosen(&[]).into_iter().map(Metric::scenario).collect();
        scenarios.dedup();
        assert_eq!(scenarios, [Scenario::Flood, Scenario::Bulk, Scenario::RoundTrips]);
        let named = [Metric::Connections, Metric::Flood, Metric::Flood];
        assert_eq!(Metric::chosen(&named), [Metric::Flood, Metric::Connections]);
    }

    #[test]
    fn values_are_read_from_their_scenario_alone() {
        let each = (1..=1000).map(|number| f64::from(number) / 1e6).collect();
        let trips = Measured::RoundTrips(Times { each, all: 0.5 });
        assert_eq!(Metric::RoundTrips.value(&trips), Some(2000.0));
        let latencies = [Metric::LatencyP50, Metric::LatencyP99, Metric::LatencyP999];
        assert_eq!(
            latencies.map(|metric| metric.show(metric.value(&trips).unwrap())),
            ["500.00", "990.00", "999.00"]
        );
        let bulk = Bulk { bytes: 2_000_000_000, seconds: 2.0, cpu: Duration::from_secs(1) };
        let bulk = Measured::Bulk(bulk);
        assert_eq!(Metric::Bulk.value(&bulk), Some(8e9));
        assert_eq!(Metric::BulkCpu.value(&bulk), Some(0.5));
        assert_eq!(Metric::LatencyP50.value(&bulk), None);
        assert_eq!(Metric::BulkCpu.title(), "TCP bulk, one connection: CPU s per GB");
    }
}
