//! What is measured, and how.

use std::time::Duration;

use anyhow::Result;
use flannel_tests::traffic::{self, OnCpu};
use serde::Serialize;

use super::bed::Bed;
use super::machine::Machine;

/// Bytes of UDP payload, as `iperf3 --length 64` and flannel's own benchmarks count: 92 bytes of inner IP packet,
/// 142 on the wire of the underlay with VXLAN around it.
const PAYLOAD: usize = 64;
/// The most that one aggregate of TCP segments can hold.
const AGGREGATE: f64 = 65536.0;

/// A property of a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Metric {
    /// As many small datagrams as go through: received per second.
    Flood,
    /// TCP at full speed: bits received per second.
    Bulk,
    /// One-byte datagrams there and back, one at a time: round trips per second.
    RoundTrips,
}

impl Metric {
    pub(super) const ALL: [Self; 3] = [Self::Flood, Self::Bulk, Self::RoundTrips];

    /// Heading in table and picture.
    pub(super) fn title(self) -> String {
        match self {
            Self::Flood => format!("UDP flood, {PAYLOAD}-byte payload: packets/s received"),
            Self::Bulk => "TCP bulk, one connection: Gbit/s received".to_owned(),
            Self::RoundTrips => "UDP request/response, 1 byte: round trips/s".to_owned(),
        }
    }

    /// The value in the title's unit.
    pub(super) fn show(self, value: f64) -> String {
        match self {
            Self::Flood | Self::RoundTrips => format!("{value:.0}"),
            Self::Bulk => format!("{:.2}", value / 1e9),
        }
    }

    /// The value in few characters.
    pub(super) fn show_short(self, value: f64) -> String {
        match self {
            Self::Flood | Self::RoundTrips => format!("{:.1}k", value / 1e3),
            Self::Bulk => format!("{:.1}G", value / 1e9),
        }
    }

    /// Measures once, from the bed's first pod to its second.
    ///
    /// A veth has no queue of its own: the CPU that sends a packet also takes it through both nodes' stacks, in
    /// softirq, up to the receiving socket (with receive packet steering off, which is the default of new
    /// interfaces). So with the sender held to one CPU and the receiver to another, the first does the whole way
    /// and nothing else, the second empties the socket, and the rate is one over the way's cost, whichever way it
    /// is. Left to the scheduler, the two ends share a CPU now and then, and the rate jumps. Round trips have
    /// both ends on one CPU: a wake-up across CPUs of a virtual machine costs more than the way itself, and varies.
    pub(super) fn measure(self, bed: &Bed, machine: &Machine, seconds: u32) -> Result<f64> {
        let from = OnCpu { host: &bed.from, cpu: machine.sender_cpu };
        let apart = OnCpu { host: &bed.to, cpu: machine.receiver_cpu };
        let beside = OnCpu { host: &bed.to, cpu: machine.sender_cpu };
        let time = Duration::from_secs(seconds.into());
        match self {
            Self::Flood => Ok(traffic::udp_flood(&from, &apart, PAYLOAD, time)?.per_second()),
            Self::Bulk => traffic::iperf3_tcp(&from, &apart, seconds),
            Self::RoundTrips => traffic::udp_round_trips(&from, &beside, time),
        }
    }

    /// How many packets must have passed each node at the very least, for this value to have come about.
    pub(super) fn least_packets(self, value: f64, seconds: u32) -> u64 {
        let per_second = match self {
            Self::Flood | Self::RoundTrips => value,
            Self::Bulk => value / 8.0 / AGGREGATE,
        };
        // A tenth for what the clocks of measurement and counters do not share.
        (per_second * f64::from(seconds) * 0.9) as u64
    }
}
