//! Who sends what he may not: the sender check's refusals, told in the log.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use flannel_common::outcome::Outcome;
use tracing::warn;

/// How often the same node is told of for the same reason.
const AGAIN: Duration = Duration::from_secs(60);
/// More nodes at a time are not told of: the counters have them.
const MOST: usize = 64;

/// Nodes whose packets are dropped, and when that was told.
#[derive(Debug, Default)]
pub(super) struct Strangers(BTreeMap<(IpAddr, Outcome), Instant>);

impl Strangers {
    /// A packet of this node in the name of this pod was dropped.
    pub(super) fn dropped(&mut self, node: IpAddr, pod: IpAddr, why: Outcome, now: Instant) {
        if self.is_news(node, why, now) {
            let (reason, help) = (why.name(), why.help());
            warn!(%node, %pod, reason, "packets of this node in the name of this pod are dropped. {help}");
        }
    }

    fn is_news(&mut self, node: IpAddr, why: Outcome, now: Instant) -> bool {
        self.0.retain(|_, told| now.duration_since(*told) < AGAIN);
        let news = self.0.len() < MOST && !self.0.contains_key(&(node, why));
        if news {
            self.0.insert((node, why), now);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_not_flooded() {
        let (mut strangers, start) = (Strangers::default(), Instant::now());
        let node = |n: u32| IpAddr::from((0xc0a8_4000 + n).to_be_bytes());
        assert!(strangers.is_news(node(1), Outcome::ForgedSender, start));
        assert!(!strangers.is_news(node(1), Outcome::ForgedSender, start + AGAIN / 2));
        assert!(strangers.is_news(node(1), Outcome::LoopedSender, start + AGAIN / 2), "another reason");
        assert!(strangers.is_news(node(1), Outcome::ForgedSender, start + AGAIN));
        let told = (2..1000).filter(|n| strangers.is_news(node(*n), Outcome::UnknownSender, start + AGAIN));
        assert_eq!(told.count(), MOST - 2);
    }
}
