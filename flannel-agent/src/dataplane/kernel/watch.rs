//! Hears of changes of interfaces, IPv4 addresses and qdiscs. What changed is for the listener to read anew.

use anyhow::{Context, Result};
use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use rtnetlink::packet_core::NetlinkMessage;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::SocketAddr;
use rtnetlink::{MulticastGroup, new_multicast_connection};

/// A subscription to the kernel's notifications.
#[derive(Debug)]
pub struct LinkWatch(UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>);

impl LinkWatch {
    /// Subscribes.
    ///
    /// # Errors
    /// The netlink socket cannot be opened.
    pub fn open() -> Result<Self> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Tc];
        let (connection, _, messages) =
            new_multicast_connection(&groups).context("subscribing to interface changes")?;
        tokio::spawn(connection);
        Ok(Self(messages))
    }

    /// Waits for a change, and takes all that are known by then as one.
    pub async fn changed(&mut self) {
        if self.0.next().await.is_none() {
            // The connection ends with the runtime.
            std::future::pending::<()>().await;
        }
        while self.0.try_recv().is_ok() {}
    }
}
