//! Subscriptions to the kernel's notifications.

use std::io;

use futures::StreamExt as _;
use futures::channel::mpsc::UnboundedReceiver;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{AsyncSocket as _, SocketAddr};
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tracing::warn;

use super::filter;

/// A subscription to some multicast groups.
#[derive(Debug)]
pub struct Notifications(UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>);

impl Notifications {
    /// Subscribes to these groups.
    ///
    /// # Errors
    /// The netlink socket cannot be opened.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn subscribe(groups: &[MulticastGroup]) -> io::Result<Self> {
        let (connection, _, messages) = new_multicast_connection(groups)?;
        tokio::spawn(connection);
        Ok(Self(messages))
    }

    /// Subscribes to these groups, except for changes that the socket with this netlink port requested.
    ///
    /// # Errors
    /// The netlink socket cannot be opened, or its filter not be set.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn subscribe_to_others(groups: &[MulticastGroup], port: u32) -> io::Result<Self> {
        let (mut connection, _, messages) = new_multicast_connection(groups)?;
        filter::ignore_requests_from(connection.socket_mut().socket_mut(), port)?;
        tokio::spawn(connection);
        Ok(Self(messages))
    }

    /// Waits for the next notification, or for [`NetlinkPayload::Overrun`] if some were lost.
    pub async fn next(&mut self) -> NetlinkPayload<RouteNetlinkMessage> {
        match self.0.next().await {
            Some((message, _)) => message.payload,
            None => {
                warn!("netlink notifications have ended; changes will not be noticed before a restart");
                std::future::pending().await
            }
        }
    }

    /// Discards the notifications that have arrived.
    pub fn discard(&mut self) {
        while self.0.try_recv().is_ok() {}
    }
}
