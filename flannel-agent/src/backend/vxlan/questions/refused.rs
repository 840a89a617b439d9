//! Nodes whose packets the sender check drops, for the log.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use flannel_common::outcome::Outcome;
use tracing::field::display;
use tracing::warn;

/// Pause before the same node is logged again for the same reason.
const PAUSE: Duration = Duration::from_secs(60);
/// The number of nodes that are logged within [`PAUSE`]. Counters have the others.
const MAX: usize = 64;

/// The nodes that have been logged, and when.
#[derive(Debug, Default)]
pub(super) struct RefusedSenders(BTreeMap<(IpAddr, Outcome), Instant>);

impl RefusedSenders {
    /// Logs that a packet of this node was dropped, whose inner source is this pod. An unspecified address: the node is not
    /// known any more.
    pub(super) fn log(&mut self, node: IpAddr, pod: IpAddr, why: Outcome, now: Instant) {
        if !self.is_due(node, why, now) {
            return;
        }
        let (reason, help) = (why.name(), why.help());
        let node = (!node.is_unspecified()).then(|| display(node));
        warn!(
            node,
            %pod,
            reason,
            "VXLAN with this inner source is dropped. {help} Backend.SourceCheck says what is checked; \"off\" accepts all, as \
             flannel does"
        );
    }

    fn is_due(&mut self, node: IpAddr, why: Outcome, now: Instant) -> bool {
        self.0.retain(|_, logged| now.duration_since(*logged) < PAUSE);
        let due = self.0.len() < MAX && !self.0.contains_key(&(node, why));
        if due {
            self.0.insert((node, why), now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_not_flooded() {
        let (mut refused, start) = (RefusedSenders::default(), Instant::now());
        let node = |n: u32| IpAddr::from((0xc0a8_4000 + n).to_be_bytes());
        assert!(refused.is_due(node(1), Outcome::ForgedSender, start));
        assert!(!refused.is_due(node(1), Outcome::ForgedSender, start + PAUSE / 2));
        assert!(refused.is_due(node(1), Outcome::LoopedSender, start + PAUSE / 2), "another reason");
        assert!(refused.is_due(node(1), Outcome::ForgedSender, start + PAUSE));
        let logged = (2..1000).filter(|n| refused.is_due(node(*n), Outcome::UnknownSender, start + PAUSE));
        assert_eq!(logged.count(), MAX - 2);
    }
}
