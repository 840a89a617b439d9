//! The traffic of a measurement.

use std::time::Duration;

use anyhow::Result;
use flannel_tests::traffic::{self, Bulk, OnCpu, Received, Times};

use super::bed::Bed;
use super::machine::Machine;
use super::variant::Carrier;

/// Bytes of UDP payload, as `iperf3 --length 64` and flannel's own benchmarks count. That is 92 bytes of inner IP packet,
/// and 142 on the underlay with VXLAN.
pub(super) const PAYLOAD: usize = 64;
/// The most bytes that one aggregate of TCP segments can hold.
const AGGREGATE: f64 = 65536.0;
/// Packets that each end of a short connection sends: SYN, data, FIN.
const OF_A_CONNECTION: f64 = 3.0;
/// The share of the overlay's packets that must have gone the way of the variant.
const SHARE: f64 = 0.99;

/// What is sent from one pod to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scenario {
    /// Small datagrams as fast as possible, of one flow.
    Flood,
    /// The same, each datagram of a random one of so many flows.
    Flows(u32),
    /// One TCP connection at full speed.
    Bulk,
    /// A one-byte datagram back and forth.
    RoundTrips,
    /// TCP connections one after the other, each with a byte each way.
    Connections,
}

/// What came of it.
pub(super) enum Measured {
    Flood(Received),
    Bulk(Bulk),
    RoundTrips(Times),
    Connections(Times),
}

impl Scenario {
    /// Measures once, from the bed's first pod to its second.
    ///
    /// A veth has no queue: the CPU that sends a packet also takes it through both nodes' stacks, in softirq, up to the
    /// receiving socket (receive packet steering is off by default). With the sender on one CPU and the receiver on
    /// another, the first does all forwarding and the second empties the socket, so that the rate is one over the cost
    /// of forwarding a packet. If the scheduler chose, both ends would share a CPU at times, and the rate would jump. Ends that
    /// wait for single packets do not sleep: waking a CPU of a virtual machine costs more than the forwarding, and varies.
    pub(super) fn measure(self, bed: &Bed, machine: &Machine, seconds: u32) -> Result<Measured> {
        let from = OnCpu { host: &bed.from, cpu: machine.sender_cpu };
        let time = Duration::from_secs(seconds.into());
        bed.with_receiver(|host| {
            let to = OnCpu { host, cpu: machine.receiver_cpu };
            Ok(match self {
                Self::Flood => Measured::Flood(traffic::udp_flood(&from, &to, PAYLOAD, time)?),
                Self::Flows(flows) => {
                    Measured::Flood(traffic::udp_flood_of(flows, &from, &to, PAYLOAD, time)?)
                }
                Self::Bulk => Measured::Bulk(traffic::tcp_bulk(&from, &to, time)?),
                Self::RoundTrips => Measured::RoundTrips(traffic::udp_round_trips(&from, &to, time)?),
                Self::Connections => Measured::Connections(traffic::tcp_connections(&from, &to, time)?),
            })
        })
    }

    /// Returns which part of the packets must have gone the way of the variant. None if the first packets of flows, which go
    /// another way there, are what is measured: short connections may have no others.
    pub(super) fn share(self, carrier: Carrier) -> Option<f64> {
        let all_alike = matches!(carrier, Carrier::KernelDevice | Carrier::BarePrograms { .. });
        match self {
            Self::Flows(_) | Self::Connections if !all_alike => None,
            _ => Some(SHARE),
        }
    }
}

impl Measured {
    /// Returns how many packets each node must have passed at least.
    pub(super) fn least_packets(&self) -> u64 {
        let packets = match self {
            Self::Flood(received) => received.packets as f64,
            Self::Bulk(bulk) => bulk.bytes as f64 / AGGREGATE,
            Self::RoundTrips(trips) => trips.each.len() as f64,
            Self::Connections(times) => times.each.len() as f64 * OF_A_CONNECTION,
        };
        // A tenth less, since measurement and counters do not start and end at the same time.
        (packets * 0.9) as u64
    }
}
