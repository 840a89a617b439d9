//! What is measured, and how.

use std::time::Duration;

use anyhow::Result;
use flannel_tests::traffic::{self, OnCpu};
use serde::Serialize;

use super::bed::Bed;
use super::machine::Machine;

/// Bytes of UDP payload, as `iperf3 --length 64` and flannel's own benchmarks count. That is 92 bytes of inner IP packet,
/// and 142 on the underlay with VXLAN.
const PAYLOAD: usize = 64;
/// The most bytes that one aggregate of TCP segments can hold.
const AGGREGATE: f64 = 65536.0;

/// A figure of a variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Metric {
    /// Small datagrams sent as fast as possible: packets received per second.
    Flood,
    /// TCP at full speed: bits received per second.
    Bulk,
    /// One-byte datagrams sent back one at a time: round trips per second.
    RoundTrips,
}

impl Metric {
    pub(super) const ALL: [Self; 3] = [Self::Flood, Self::Bulk, Self::RoundTrips];

    /// Returns the heading in table and picture.
    pub(super) fn title(self) -> String {
        match self {
            Self::Flood => format!("UDP flood, {PAYLOAD}-byte payload: packets/s received"),
            Self::Bulk => "TCP bulk, one connection: Gbit/s received".to_owned(),
            Self::RoundTrips => "UDP request/response, 1 byte: round trips/s".to_owned(),
        }
    }

    /// Returns the value in the title's unit.
    pub(super) fn show(self, value: f64) -> String {
        match self {
            Self::Flood | Self::RoundTrips => format!("{value:.0}"),
            Self::Bulk => format!("{:.2}", value / 1e9),
        }
    }

    /// Returns the value in few characters.
    pub(super) fn show_short(self, value: f64) -> String {
        match self {
            Self::Flood | Self::RoundTrips => format!("{:.1}k", value / 1e3),
            Self::Bulk => format!("{:.1}G", value / 1e9),
        }
    }

    /// Measures once, from the bed's first pod to its second.
    ///
    /// A veth has no queue: the CPU that sends a packet also takes it through both nodes' stacks, in softirq, up to the
    /// receiving socket (receive packet steering is off by default). With the sender on one CPU and the receiver on
    /// another, the first does all forwarding and the second empties the socket, so that the rate is one over the cost
    /// of forwarding a packet. If the scheduler chose, both ends would share a CPU at times, and the rate would jump.
    /// Round trips have both ends on one CPU: waking another CPU of a virtual machine costs more than the forwarding,
    /// and varies.
    pub(super) fn measure(self, bed: &Bed, machine: &Machine, seconds: u32) -> Result<f64> {
        let from = OnCpu { host: &bed.from, cpu: machine.sender_cpu };
        let time = Duration::from_secs(seconds.into());
        bed.with_receiver(|host| {
            let apart = OnCpu { host, cpu: machine.receiver_cpu };
            let beside = OnCpu { host, cpu: machine.sender_cpu };
            match self {
                Self::Flood => Ok(traffic::udp_flood(&from, &apart, PAYLOAD, time)?.per_second()),
                Self::Bulk => traffic::iperf3_tcp(&from, &apart, seconds),
                Self::RoundTrips => traffic::udp_round_trips(&from, &beside, time),
            }
        })
    }

    /// Returns how many packets each node must have passed at least if this value is right.
    pub(super) fn least_packets(self, value: f64, seconds: u32) -> u64 {
        let per_second = match self {
            Self::Flood | Self::RoundTrips => value,
            Self::Bulk => value / 8.0 / AGGREGATE,
        };
        // A tenth less, since measurement and counters do not start and end at the same time.
        (per_second * f64::from(seconds) * 0.9) as u64
    }
}
