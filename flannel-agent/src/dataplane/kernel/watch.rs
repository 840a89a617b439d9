//! Changes of interfaces, IPv4 addresses and qdiscs: a reason to read the pods' ports again.

use anyhow::{Context, Result};
use rtnetlink::MulticastGroup;

use crate::netlink::notifications::Notifications;

const GROUPS: [MulticastGroup; 3] = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Tc];

/// A subscription to such changes.
#[derive(Debug)]
pub struct LinkWatch(Notifications);

impl LinkWatch {
    /// Subscribes.
    ///
    /// # Errors
    /// The netlink socket cannot be opened.
    pub fn open() -> Result<Self> {
        Notifications::subscribe(&GROUPS).map(Self).context("subscribing to interface changes")
    }

    /// Waits for a change. Changes that arrive together count as one.
    pub async fn changed(&mut self) {
        self.0.next().await;
        self.0.discard();
    }
}
