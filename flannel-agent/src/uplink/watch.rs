//! Changes of the uplink: another address, another MTU, another interface.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rtnetlink::{Handle, MulticastGroup};
use tokio::time::timeout;
use tracing::warn;

use super::{Host, InUse, Interface, Uplink, UplinkError, UplinkOptions, choose};
use crate::netlink;
use crate::netlink::address::is_link_local;
use crate::netlink::filter::Omit;
use crate::netlink::notifications::Notifications;

/// The changes that can lead to another choice. The overlay has thousands of routes, so only default routes count, unless the
/// uplink is chosen by the route to an address.
const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];
/// An address is often changed by removing it and adding another. A burst of changes is over after this time.
const QUIET: Duration = Duration::from_millis(100);
/// A burst that does not end is interrupted after this time.
const BURST: Duration = Duration::from_secs(1);

/// Follows the kernel's changes and chooses the uplink again.
pub struct UplinkWatch {
    handle: Handle,
    notifications: Notifications,
    options: UplinkOptions,
}

impl UplinkWatch {
    /// Subscribes to the changes.
    ///
    /// # Errors
    /// A netlink socket cannot be opened.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open(options: UplinkOptions) -> Result<Self> {
        let handle = netlink::open()?;
        let omitted = options.can_reach.is_none().then_some(Omit::RoutesToSubnets);
        let notifications = Notifications::subscribe_without(omitted, &GROUPS)
            .context("subscribing to changes of links, addresses and routes")?;
        Ok(Self { handle, notifications, options })
    }

    /// Chooses the uplink.
    ///
    /// # Errors
    /// See [`choose`].
    pub async fn choose(&self, in_use: &InUse) -> Result<Uplink, UplinkError> {
        choose(&self.handle, &self.options, in_use).await
    }

    /// Returns all addresses of the node, without those of the overlay.
    ///
    /// # Errors
    /// The kernel does not list them.
    pub async fn node_addresses(&self) -> Result<Vec<IpAddr>, UplinkError> {
        let mut host = Host::read(&self.handle, &self.options).await?;
        host.ignore(&self.options.pod_networks);
        Ok(host.interfaces.iter().flat_map(Interface::addresses).filter(|ip| !is_link_local(*ip)).collect())
    }

    /// Waits until another uplink is to be used. While none can be chosen, the current one stays.
    pub async fn changed(&mut self, current: &Uplink) -> Uplink {
        let mut missing = false;
        let in_use = InUse::from(current);
        loop {
            match choose(&self.handle, &self.options, &in_use).await {
                Ok(uplink) if uplink != *current => return uplink,
                Ok(_) => missing = false,
                Err(_) if missing => {}
                Err(error) => {
                    warn!("{error}; staying with {} until one can be chosen", current.name);
                    missing = true;
                }
            }
            self.burst().await;
        }
    }

    /// Waits for a change, and for the end of the burst that it is part of.
    async fn burst(&mut self) {
        self.change().await;
        let burst = async { while timeout(QUIET, self.change()).await.is_ok() {} };
        // It is time to choose again whether the burst has ended or not.
        let _ = timeout(BURST, burst).await;
    }

    async fn change(&mut self) {
        self.notifications.next().await;
    }
}
