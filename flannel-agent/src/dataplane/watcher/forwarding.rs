//! Follows the kernel's forwarding of pods' packets. Flows that were proven before a change of it have to be proven again.

use std::collections::BTreeSet;
use std::future::pending;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use ipnet::IpNet;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::asking::Asking;
use crate::dataplane::forwarding::{Change, Forwarding};
use crate::dataplane::kernel::{ForwardingChanges, Kernel};

/// Least time between two changes that count: on a node where something flaps, most packets still take the shortcut.
const PAUSE: Duration = Duration::from_millis(100);

/// A subscription to changes that count.
#[derive(Debug)]
pub(super) struct ForwardingWatch {
    changes: ForwardingChanges,
    known: Forwarding,
    asking: Asking,
    /// Whether what is known may be wrong.
    is_stale: bool,
    /// Whether something has changed since the last report.
    is_due: bool,
    /// When the next report may be.
    next: Instant,
}

impl ForwardingWatch {
    /// Begins to listen. `networks`: those of all pods.
    pub(super) fn open(kernel: &Kernel, networks: Vec<IpNet>) -> Result<Self> {
        Ok(Self {
            changes: ForwardingChanges::open(kernel)?,
            known: Forwarding::new(networks),
            asking: Asking::default(),
            is_stale: true,
            is_due: false,
            next: Instant::now(),
        })
    }

    /// Sets the indexes of the pods' bridges, the vxlan devices and the uplinks.
    pub(super) fn set_on_way(&mut self, interfaces: impl IntoIterator<Item = u32>) {
        self.is_stale |= self.known.set_on_way(interfaces);
    }

    /// Sets the public addresses of the other nodes.
    pub(super) fn set_peers(&mut self, peers: &BTreeSet<IpAddr>) {
        self.known.set_peers(peers);
    }

    /// Waits until proven flows may have another way: the first time at once, and then at most every [`PAUSE`]. It may be dropped
    /// and called again; no change gets lost.
    pub(super) async fn changed(&mut self, kernel: &Kernel) {
        loop {
            if self.is_stale {
                self.read(kernel).await;
            }
            while let Some(returned) = self.known.next_returned() {
                self.asking.add(returned);
            }
            let Self { changes, is_due, next, asking, .. } = self;
            let due = async { if *is_due { sleep_until(*next).await } else { pending().await } };
            tokio::select! {
                biased;
                () = due => {
                    self.is_due = false;
                    self.next = Instant::now() + PAUSE;
                    return;
                }
                change = changes.next() => self.follow(&change),
                () = asking.next(kernel) => {}
            }
        }
    }

    fn follow(&mut self, change: &Change) {
        self.is_stale |= *change == Change::Lost;
        if self.known.observe(change) && !self.is_due {
            debug!(?change, "flows have to be proven again");
            self.is_due = true;
        }
    }

    /// Reads what the kernel has. After a failure the changes alone are followed.
    async fn read(&mut self, kernel: &Kernel) {
        match kernel.forwarding(self.known.on_way()).await {
            Ok(all) => self.known.set(all),
            Err(error) => debug!("reading the forwarding of pods' packets: {error:#}"),
        }
        self.is_stale = false;
    }
}
