//! What to do about another node that has this node's address: said once, and settled.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::lease::{OwnLease, PublicIps, Rival};
use crate::mac::Mac;
use crate::metrics::{FailureKind, METRICS};
use crate::problem::{Pace, Problem};

/// A node that has not written the lease for so long has given way, or is gone. If it writes again, it was started again.
const QUIET: Duration = Duration::from_secs(180);

/// What has happened with other nodes of this node's address.
pub(super) struct Rivalry {
    /// When the lease is or was written again, and after which pause.
    last: Option<(Instant, Duration)>,
    /// The newer node that was named last.
    said: Option<Rival>,
    /// As long as the lease is left to another node.
    given_way: Problem,
}

/// What to do.
pub(super) enum Verdict {
    /// To write the lease again after a pause.
    Write(Duration),
    /// To leave it to the other node.
    GiveWay,
}

impl Rivalry {
    pub(super) fn new() -> Self {
        let over = "the lease is not left to another node with this node's address any more";
        Self { last: None, said: None, given_way: Problem::new(FailureKind::Contested, over, Pace::STEADY) }
    }

    /// The lease is no longer left to another node.
    pub(super) fn ended(&mut self) {
        self.given_way.solved();
    }

    /// Decides who keeps the lease, and says so once. Pauses grow, since the other node may be one that never gives way.
    pub(super) fn judge(&mut self, lease: &OwnLease, rival: Rival) -> Verdict {
        if rival.was_first {
            self.given_way.observed(vec![text(lease, rival)]);
            return Verdict::GiveWay;
        }
        METRICS.count_failure(FailureKind::Contested);
        if self.said.replace(rival) != Some(rival) {
            warn!("{}", text(lease, rival));
        }
        let now = Instant::now();
        let recent = self.last.filter(|(written, _)| now.saturating_duration_since(*written) < QUIET);
        let pause = Pace::SLOWING.after(recent.map_or(Duration::ZERO, |(_, pause)| pause));
        self.last = Some((now + pause, pause));
        Verdict::Write(pause)
    }
}

fn text(lease: &OwnLease, Rival { mac, was_first }: Rival) -> String {
    let addresses: Vec<_> =
        PublicIps::from(&lease.attrs).addresses().map(|address| address.to_string()).collect();
    let own: Vec<_> = lease.attrs.vtep_macs().map(|mac: Mac| mac.to_string()).collect();
    let what = if was_first {
        "it was first, so this node leaves the lease to it and is not ready until that has changed"
    } else {
        "this node was first and writes its lease again"
    };
    format!(
        "two nodes have the address {}: another one, with the VTEP MAC {mac}, has written the lease {lease} of this node, which \
         has {}; {what}. Give each node an address of its own, by its interface (cloned machines have one) or by --public-ip",
        addresses.join(" and "),
        own.join(" and ")
    )
}
