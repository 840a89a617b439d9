//! Subscriptions to the kernel's notifications.

use std::{fmt, io};

use futures::StreamExt as _;
use futures::channel::mpsc::UnboundedReceiver;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkDeserializable, NetlinkMessage, NetlinkPayload, NetlinkSerializable};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::proto::{self, Connection};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{AsyncSocket as _, SocketAddr, TokioSocket};
use tracing::{debug, warn};

use super::filter::Omit;
use crate::task::Task;

/// A subscription to some multicast groups. Messages that `M` cannot read are left out.
#[derive(Debug)]
pub struct Notifications<M = RouteNetlinkMessage> {
    messages: Messages<M>,
    ended: bool,
    /// Reads the socket. By itself it would end, and close it, only with the next message.
    _reader: Task,
}

type Messages<M> = UnboundedReceiver<(NetlinkMessage<M>, SocketAddr)>;

/// A message of the kernel.
pub trait Readable:
    NetlinkDeserializable + NetlinkSerializable + fmt::Debug + Unpin + Send + Sync + 'static
{
}

impl<M: NetlinkDeserializable + NetlinkSerializable + fmt::Debug + Unpin + Send + Sync + 'static> Readable
    for M
{
}

impl<M: Readable> Notifications<M> {
    /// Subscribes to these groups. A group of objects that the kernel does not have is left out.
    ///
    /// # Errors
    /// The netlink socket cannot be opened.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn subscribe(groups: &[MulticastGroup]) -> io::Result<Self> {
        Self::subscribe_without(None, groups)
    }

    /// [`Self::subscribe`] without what is omitted.
    ///
    /// # Errors
    /// The netlink socket cannot be opened, or its filter not be set.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn subscribe_without(omitted: Option<Omit>, groups: &[MulticastGroup]) -> io::Result<Self> {
        let (mut connection, messages) = open()?;
        omitted.map_or(Ok(()), |omitted| omitted.apply_to(connection.socket_mut().socket_mut()))?;
        join(&mut connection, groups)?;
        Ok(Self { messages, ended: false, _reader: Task::spawn(connection) })
    }

    /// Waits for the next notification, or for [`NetlinkPayload::Overrun`] if some were lost.
    pub async fn next(&mut self) -> NetlinkPayload<M> {
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

fn open<M: Readable>() -> io::Result<(Connection<M, TokioSocket>, Messages<M>)> {
    let (mut connection, _, messages) = proto::new_connection(NETLINK_ROUTE)?;
    connection.socket_mut().socket_mut().bind_auto()?;
    Ok((connection, messages))
}

fn join<M: Readable>(
    connection: &mut Connection<M, TokioSocket>,
    groups: &[MulticastGroup],
) -> io::Result<()> {
    for group in groups {
        let joined = connection.socket_mut().socket_mut().add_membership(*group as u32);
        // The kernel is older than the group, so it has no such objects.
        if matches!(&joined, Err(error) if error.raw_os_error() == Some(libc::EINVAL)) {
            debug!(?group, "the kernel does not have these notifications");
        } else {
            joined?;
        }
    }
    Ok(())
}
