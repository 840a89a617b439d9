//! When the uplink is another than it was: another address, another MTU, another interface.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use futures::future::ready;
use futures::stream::BoxStream;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::{Handle, MulticastGroup};
use tokio::time::timeout;
use tracing::warn;

use super::{Uplink, UplinkError, UplinkOptions, choose};

/// What can make the choice another.
const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];
/// An address is often changed by removing it and adding another: a burst of events is over after this time.
const QUIET: Duration = Duration::from_millis(100);
/// A burst that does not end is looked at all the same.
const BURST: Duration = Duration::from_secs(1);

/// Follows the kernel's news and chooses again.
pub struct UplinkWatch {
    handle: Handle,
    news: BoxStream<'static, ()>,
    options: UplinkOptions,
}

impl UplinkWatch {
    /// Listens from now on.
    ///
    /// # Errors
    /// A netlink socket cannot be opened.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open(options: UplinkOptions) -> Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection().context("opening a netlink socket")?;
        tokio::spawn(connection);
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&GROUPS)
            .context("listening to the kernel's news of links, addresses and routes")?;
        tokio::spawn(connection);
        let every_route = options.can_reach.is_some();
        let relevant = move |(message, _): &(NetlinkMessage<_>, _)| ready(is_relevant(message, every_route));
        Ok(Self { handle, news: messages.filter(relevant).map(drop).boxed(), options })
    }

    /// Chooses the uplink.
    ///
    /// # Errors
    /// See [`choose`].
    pub async fn choose(&self) -> Result<Uplink, UplinkError> {
        choose(&self.handle, &self.options, None).await
    }

    /// Waits until another uplink than this one is to be used. As long as there is none at all, this one stays.
    pub async fn changed(&mut self, current: &Uplink) -> Uplink {
        let mut missing = false;
        loop {
            match choose(&self.handle, &self.options, Some(current)).await {
                Ok(uplink) if uplink != *current => return uplink,
                Ok(_) => missing = false,
                Err(_) if missing => {}
                Err(error) => {
                    warn!("{error}; staying with {} until there is", current.name);
                    missing = true;
                }
            }
            self.news().await;
        }
    }

    /// Waits for news, and for the end of the burst that they come in.
    async fn news(&mut self) {
        if self.news.next().await.is_none() {
            warn!(
                "the kernel's news have ended; a change of the uplink will not be noticed before a restart"
            );
            std::future::pending::<()>().await;
        }
        let burst = async { while let Ok(Some(())) = timeout(QUIET, self.news.next()).await {} };
        // Either way it is time to look.
        let _ = timeout(BURST, burst).await;
    }
}

/// The overlay's own routes are thousands, and none of them can matter. What is not understood (an overrun of
/// the socket, say) might.
fn is_relevant(message: &NetlinkMessage<RouteNetlinkMessage>, every_route: bool) -> bool {
    match &message.payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
        ) => every_route || route.header.destination_prefix_length == 0,
        _ => true,
    }
}
