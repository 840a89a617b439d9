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
pub struct Notifications {
    messages: Messages,
    ended: bool,
}

type Messages = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

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
        Ok(Self { messages, ended: false })
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
        Ok(Self { messages, ended: false })
    }

    /// Waits for the next notification, or for [`NetlinkPayload::Overrun`] if some were lost.
    pub async fn next(&mut self) -> NetlinkPayload<RouteNetlinkMessage> {
        if let Some((message, _)) = self.messages.next().await {
            return message.payload;
        }
        if !std::mem::replace(&mut self.ended, true) {
            warn!("netlink notifications have ended; changes will not be noticed before a restart");
        }
        std::future::pending().await
    }

    /// Discards the notifications that have arrived.
    pub fn discard(&mut self) {
        while self.messages.try_recv().is_ok() {}
    }
}
