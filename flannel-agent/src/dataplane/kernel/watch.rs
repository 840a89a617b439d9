//! Changes of interfaces, IPv4 addresses, qdiscs and routing rules: a reason to read the pods' ports again, and what others
//! have put on the way of packets.

use anyhow::{Context, Result};
use rtnetlink::MulticastGroup;

use crate::netlink::notifications::Notifications;

const GROUPS: [MulticastGroup; 4] =
    [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Tc, MulticastGroup::Ipv4Rule];

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
