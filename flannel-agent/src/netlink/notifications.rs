//! Subscriptions to the kernel's notifications.

use std::convert::Infallible;
use std::io;
use std::marker::PhantomData;

use futures::StreamExt as _;
use futures::channel::mpsc::UnboundedReceiver;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{
    NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
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
    messages: Messages,
    ended: bool,
    /// Reads the socket. By itself it would end, and close it, only with the next message.
    _reader: Task,
    read: PhantomData<fn() -> M>,
}

type Messages = UnboundedReceiver<(NetlinkMessage<Unread>, SocketAddr)>;

/// A message that waits to be read: many come at once, and one about an interface takes five times as much memory when it is read.
#[derive(Debug)]
struct Unread {
    header: NetlinkHeader,
    bytes: Vec<u8>,
}

impl NetlinkDeserializable for Unread {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self { header: *header, bytes: payload.to_vec() })
    }
}

impl NetlinkSerializable for Unread {
    fn message_type(&self) -> u16 {
        self.header.message_type
    }

    fn buffer_len(&self) -> usize {
        self.bytes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.bytes);
    }
}

impl<M: NetlinkDeserializable> Notifications<M> {
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
        Ok(Self { messages, ended: false, _reader: Task::spawn(connection), read: PhantomData })
    }

    /// Waits for the next notification, or for [`NetlinkPayload::Overrun`] if some were lost.
    pub async fn next(&mut self) -> NetlinkPayload<M> {
        while let Some((message, _)) = self.messages.next().await {
            if let Some(payload) = read(message.payload) {
                return payload;
            }
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

/// Reads a message, if `M` can.
fn read<M: NetlinkDeserializable>(payload: NetlinkPayload<Unread>) -> Option<NetlinkPayload<M>> {
    Some(match payload {
        NetlinkPayload::InnerMessage(Unread { header, bytes }) => match M::deserialize(&header, &bytes) {
            Ok(message) => NetlinkPayload::InnerMessage(message),
            Err(error) => {
                debug!(%error, "a notification of the kernel cannot be read");
                return None;
            }
        },
        NetlinkPayload::Done(done) => NetlinkPayload::Done(done),
        NetlinkPayload::Error(error) => NetlinkPayload::Error(error),
        NetlinkPayload::Noop => NetlinkPayload::Noop,
        NetlinkPayload::Overrun(bytes) => NetlinkPayload::Overrun(bytes),
        _ => return None,
    })
}

fn open() -> io::Result<(Connection<Unread, TokioSocket>, Messages)> {
    let (mut connection, _, messages) = proto::new_connection(NETLINK_ROUTE)?;
    connection.socket_mut().socket_mut().bind_auto()?;
    Ok((connection, messages))
}

fn join(connection: &mut Connection<Unread, TokioSocket>, groups: &[MulticastGroup]) -> io::Result<()> {
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
