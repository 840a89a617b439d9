//! What packets ask for, and who is refused: the programs' part is heard here, and kernel and programs are answered.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::Result;
use flannel_common::event::Event;
use flannel_common::outcome::Outcome;
use tracing::info;

use super::Vxlan;
use super::misses::{About, Fate};
use crate::metrics::METRICS;

impl Vxlan {
    /// Takes note of what the programs tell. Returns whether that is a question to be answered.
    pub(super) fn hear(&mut self, event: &Event) -> bool {
        let Event { outcome, pod, node } = *event;
        let (now, pod) = (Instant::now(), IpAddr::from(pod).to_canonical());
        METRICS.count_event(outcome);
        let asks = matches!(outcome, Outcome::Unleased | Outcome::UnknownSender);
        if asks && self.networks.iter().any(|network| network.contains(&pod)) {
            return self.misses.ask_for_pod(pod, now);
        }
        self.strangers.dropped(IpAddr::from(node).to_canonical(), pod, outcome, now);
        false
    }

    /// Answers what the kernel and the programs have asked. What no peer is the answer to is remembered for a while, and
    /// the datastore is to be asked once.
    pub(super) async fn answer(&mut self) -> Vec<anyhow::Error> {
        let mut errors = Vec::new();
        for question in self.misses.take() {
            let kind = question.about.name();
            match self.answer_to(&question.about).await {
                Some(answered) => {
                    METRICS.count_miss(kind, true);
                    self.misses.answered(&question);
                    errors.extend(answered.err());
                }
                None => match self.misses.put_back(question, Instant::now()) {
                    Fate::AskDatastore => self.wants_peers = true,
                    Fate::Dropped => {}
                    Fate::Nobodys => {
                        METRICS.count_miss(kind, false);
                        info!(about = %question.about, "nobody leases what a packet is for, or from");
                    }
                },
            }
        }
        errors
    }

    /// Answers with what is known of the peers.
    async fn answer_to(&self, about: &About) -> Option<Result<()>> {
        match about {
            About::Kernel(device, miss) => {
                let overlay = self.overlays.iter().find(|one| one.device().index == *device)?;
                overlay.answer(&self.kernel, miss).await
            }
            // Whatever is known of a pod's node is in the maps.
            About::Pod(pod) => {
                let peers = self.applied.as_ref()?;
                peers.iter().any(|peer| peer.subnet.contains(pod)).then_some(Ok(()))
            }
        }
    }
}
