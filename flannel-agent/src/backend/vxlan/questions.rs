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
use crate::report::feed::{FEED, What};
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
        let is_new = self.misses.add(device, miss, Instant::now());
        if is_new {
            FEED.tell(|| [asked(Question::Kernel(device, miss))]);
        }
        is_new
    }

    /// Adds an event of the programs: a question, or a refused sender. Returns whether there is something to answer.
    pub(super) fn add_event(&mut self, event: &Event) -> bool {
        let Event { outcome, pod, node } = *event;
        let (now, pod) = (Instant::now(), IpAddr::from(pod).to_canonical());
        METRICS.count_event(outcome);
        FEED.tell(|| [told(event)]);
        let asks = matches!(outcome, Outcome::Unleased | Outcome::UnknownSender);
        if asks && self.networks.iter().any(|network| network.contains(&pod)) {
            return self.misses.add_pod(pod, now);
        }
        self.refused.log(IpAddr::from(node).to_canonical(), pod, outcome, now);
        false
    }
}

/// Returns what a listener is told of an event.
fn told(&Event { outcome, pod, node }: &Event) -> What {
    let canonical = |address: [u8; 16]| IpAddr::from(address).to_canonical();
    let node = Some(canonical(node)).filter(|node| !node.is_unspecified());
    if outcome.is_drop() {
        What::Drop { outcome: outcome.name().to_owned(), source: canonical(pod), node }
    } else {
        asked(Question::Pod(canonical(pod)))
    }
}

fn asked(question: Question) -> What {
    What::Miss { wanted: question.kind().to_owned(), of: question.to_string() }
}
