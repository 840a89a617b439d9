//! What packets ask for through kernel and programs, and which packets the programs refuse.

mod misses;
mod refused;

use std::net::IpAddr;
use std::time::Instant;

use flannel_common::event::Event;
use flannel_common::outcome::Outcome;
use ipnet::IpNet;

use crate::config::NetworkConfig;
use crate::dataplane::entry::Miss;
use crate::metrics::METRICS;
use misses::Misses;
pub(super) use misses::Question;
use refused::RefusedSenders;

/// Open questions, and the senders that are refused.
pub(super) struct Questions {
    networks: Vec<IpNet>,
    pub(super) misses: Misses,
    refused: RefusedSenders,
}

impl Questions {
    pub(super) fn new(network: &NetworkConfig) -> Self {
        Self {
            networks: network.networks().collect(),
            misses: Misses::default(),
            refused: RefusedSenders::default(),
        }
    }

    /// Adds a question of the kernel at the device with this index. Returns whether it is to be answered.
    pub(super) fn add_miss(&mut self, device: u32, miss: Miss) -> bool {
        self.misses.add(device, miss, Instant::now())
    }

    /// Adds an event of the programs: a question, or a refused sender. Returns whether there is something to answer.
    pub(super) fn add_event(&mut self, event: &Event) -> bool {
        let Event { outcome, pod, node } = *event;
        let (now, pod) = (Instant::now(), IpAddr::from(pod).to_canonical());
        METRICS.count_event(outcome);
        let asks = matches!(outcome, Outcome::Unleased | Outcome::UnknownSender);
        if asks && self.networks.iter().any(|network| network.contains(&pod)) {
            return self.misses.add_pod(pod, now);
        }
        self.refused.log(IpAddr::from(node).to_canonical(), pod, outcome, now);
        false
    }
}
