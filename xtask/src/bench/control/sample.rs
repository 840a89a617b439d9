//! The figures of one starting agent.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::changes::{Changes, Spread};
use crate::bench::series::median;

/// Figures of one agent, counted from its start.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Sample {
    /// Time until `subnet.env` existed.
    pub(super) subnet_file: Duration,
    /// Time until kernel and maps had all leases.
    pub(super) all_leases: Duration,
    /// CPU time until then, in user and kernel mode.
    pub(super) cpu: Duration,
    /// Resident memory then, in bytes.
    pub(super) memory: u64,
    /// Peak of resident memory until then, in bytes.
    pub(super) peak: u64,
    /// Memory that the kernel has locked for its maps then, in bytes.
    pub(super) maps: u64,
    /// Time that `flannel-agent status` takes then, in milliseconds.
    pub(super) status: f64,
    /// Time that `flannel-agent peers` takes then, in milliseconds.
    pub(super) peers: f64,
    /// What changes of one lease took after that.
    pub(super) changes: Changes,
}

/// The samples of one number of leases.
#[derive(Debug, Serialize)]
pub(super) struct Scale {
    pub(super) leases: u32,
    pub(super) samples: Vec<Sample>,
}

impl Scale {
    pub(super) fn new(leases: u32) -> Self {
        Self { leases, samples: Vec::new() }
    }

    /// Returns the median of the samples' values.
    pub(super) fn median(&self, value: impl Fn(&Sample) -> f64) -> f64 {
        median(&self.samples.iter().map(value).collect::<Vec<_>>())
    }
}

/// A figure of a sample, and its heading. NaN: the datastore does not show it.
type Column = (&'static str, fn(&Sample) -> f64);

impl Sample {
    /// All figures, in the table's order and units.
    pub(super) const COLUMNS: [Column; 13] = [
        ("subnet.env ms", |sample| millis(sample.subnet_file)),
        ("all leases ms", |sample| millis(sample.all_leases)),
        ("CPU ms", |sample| millis(sample.cpu)),
        ("memory MB", |sample| megabytes(sample.memory)),
        ("peak MB", |sample| megabytes(sample.peak)),
        ("maps MB", |sample| megabytes(sample.maps)),
        ("status ms", |sample| sample.status),
        ("peers ms", |sample| sample.peers),
        ("join ms", |sample| millis(sample.changes.join)),
        ("back ms", |sample| millis(sample.changes.back)),
        ("leave ms", |sample| millis(sample.changes.leave)),
        ("event ms", |sample| sample.event(|event| event.median)),
        ("event p99 ms", |sample| sample.event(|event| event.p99)),
    ];

    /// Returns a time since the datastore's event, in milliseconds.
    pub(super) fn event(&self, time: impl Fn(Spread) -> Duration) -> f64 {
        self.changes.event.map_or(f64::NAN, |event| millis(time(event)))
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = Self::COLUMNS.map(|(title, value)| (title, value(self)));
        let shown = shown.iter().filter(|(_, value)| !value.is_nan());
        f.write_str(&shown.map(|(title, value)| format!("{title} {value:.1}")).collect::<Vec<_>>().join(", "))
    }
}

pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[allow(clippy::cast_precision_loss, reason = "a process has less than 2^53 bytes")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
