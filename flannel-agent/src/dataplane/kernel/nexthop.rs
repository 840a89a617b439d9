//! Nexthop objects (`ip nexthop`, since Linux 5.3): numbered gateways, for devices with very many routes.
//!
//! The kernel compares the gateway of every new IPv4 route with those of all others through the device
//! (net/ipv4/fib_semantics.c: `fib_find_info`, whose hash has the device but not the gateway). The ten
//! thousandth route takes 0.3 ms, and all of them 1.8 s. A nexthop object is found by its number: 0.3 s for
//! all.

use std::net::Ipv4Addr;

use anyhow::Result;
use futures::{StreamExt, future};
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::proto::ConnectionHandle;
use rtnetlink::sys::SocketAddr;

use crate::dataplane::table::Table;
use crate::netlink::message::Message;

/// include/uapi/linux/nexthop.h
const NHA_ID: u16 = 1;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
/// include/uapi/linux/rtnetlink.h
const RTNH_F_ONLINK: u32 = 4;
/// `struct nhmsg`: family, scope, protocol, reserved, flags.
const HEADER: usize = 8;

/// A nexthop object: a gateway behind a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Nexthop {
    pub(super) gateway: Ipv4Addr,
    pub(super) device: u32,
    /// Whether the gateway counts as on the link, whatever the addresses of the device are.
    pub(super) onlink: bool,
}

/// Returns the number of a gateway's object, which is its address. So each gateway has one object, and
/// numbers need not be stored.
pub(super) fn id(gateway: Ipv4Addr) -> u32 {
    gateway.into()
}

/// Returns the message that names a gateway's object.
pub(super) fn name(gateway: Ipv4Addr) -> Vec<u8> {
    let mut message = header(RouteProtocol::Unspec, 0);
    attribute(&mut message, NHA_ID, id(gateway).to_ne_bytes());
    message
}

impl Nexthop {
    /// Returns the message that makes it.
    pub(super) fn message(self) -> Vec<u8> {
        let mut message = header(RouteProtocol::Boot, if self.onlink { RTNH_F_ONLINK } else { 0 });
        attribute(&mut message, NHA_ID, id(self.gateway).to_ne_bytes());
        attribute(&mut message, NHA_OIF, self.device.to_ne_bytes());
        attribute(&mut message, NHA_GATEWAY, self.gateway.octets());
        message
    }

    /// Reads a message of the kernel, if its object has an agent's number.
    fn read(message: &[u8]) -> Option<Self> {
        let flags = message.get(4..HEADER)?.try_into().map(u32::from_ne_bytes).ok()?;
        let value = |wanted| attributes(message).find(|(kind, _)| *kind == wanted)?.1.try_into().ok();
        let gateway = Ipv4Addr::from(value(NHA_GATEWAY)?);
        let device = u32::from_ne_bytes(value(NHA_OIF)?);
        let is_numbered_so = u32::from_ne_bytes(value(NHA_ID)?) == id(gateway);
        is_numbered_so.then_some(Self { gateway, device, onlink: flags & RTNH_F_ONLINK != 0 })
    }
}

/// Reads the report of an object that was made, changed or removed: the gateway whose number it has, and the
/// device behind which it leads to that gateway as the floor's do.
pub(super) fn reported(message: &[u8], gone: bool) -> Option<(Ipv4Addr, Option<u32>)> {
    let (_, id) = attributes(message).find(|(kind, _)| *kind == NHA_ID)?;
    let gateway = u32::from_ne_bytes(id.try_into().ok()?).into();
    let now = Nexthop::read(message).filter(|nexthop| nexthop.onlink && !gone);
    Some((gateway, now.map(|nexthop| nexthop.device)))
}

/// Returns the gateway whose number a removed object had.
#[must_use]
pub fn removed(message: &Message) -> Option<Ipv4Addr> {
    let Message::DelNexthop(message) = message else { return None };
    reported(message, true).map(|(gateway, _)| gateway)
}

/// Lists the gateways that have such an object on the device. There are none if the kernel has no nexthop
/// objects.
pub(super) async fn dump(socket: &ConnectionHandle<Message>, device: u32) -> Result<Table<Ipv4Addr, ()>> {
    let mut filter = header(RouteProtocol::Unspec, 0);
    attribute(&mut filter, NHA_OIF, device.to_ne_bytes());
    let mut request = NetlinkMessage::from(Message::GetNexthop(filter));
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let answers = socket.request(request, SocketAddr::new(0, 0))?;
    let read = |answer: NetlinkMessage<Message>| {
        let nexthop = match answer.payload {
            NetlinkPayload::InnerMessage(Message::NewNexthop(message)) => Nexthop::read(&message),
            _ => None,
        };
        future::ready(
            nexthop
                .filter(|nexthop| nexthop.device == device && nexthop.onlink)
                .map(|nexthop| (nexthop.gateway, ())),
        )
    };
    Ok(answers.filter_map(read).collect::<Vec<_>>().await.into_iter().collect())
}

/// Whether the kernel has nexthop objects. Asked for one that cannot exist, it answers ENOENT if it does.
pub(super) async fn are_supported(socket: &ConnectionHandle<Message>) -> bool {
    let name = name(Ipv4Addr::BROADCAST);
    let mut request = NetlinkMessage::from(Message::GetNexthop(name));
    request.header.flags = NLM_F_REQUEST;
    let Ok(mut answers) = socket.request(request, SocketAddr::new(0, 0)) else { return false };
    match answers.next().await.map(|answer| answer.payload) {
        Some(NetlinkPayload::Error(answer)) => answer.raw_code() == -libc::ENOENT,
        answer => answer.is_some(),
    }
}

/// Returns a `struct nhmsg`. The kernel refuses a query whose header has more than the family.
fn header(protocol: RouteProtocol, flags: u32) -> Vec<u8> {
    let mut message = vec![libc::AF_INET as u8, 0, protocol.into(), 0];
    message.extend(flags.to_ne_bytes());
    message
}

fn attribute(message: &mut Vec<u8>, kind: u16, value: [u8; 4]) {
    message.extend(8u16.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
}

/// Iterates over kind and value of each attribute, and ends at malformed bytes.
fn attributes(message: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = message.get(HEADER..).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?).into();
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_read_as_it_was_written() {
        let nexthop = Nexthop { gateway: Ipv4Addr::new(10, 1, 15, 0), device: 7, onlink: true };
        assert_eq!(Nexthop::read(&nexthop.message()), Some(nexthop));
        assert_eq!(Nexthop::read(&name(nexthop.gateway)), None);
        let mut foreign = nexthop.message();
        foreign[12] ^= 1;
        assert_eq!(Nexthop::read(&foreign), None, "an object with another number");
        for (message, gone, device) in [
            (nexthop.message(), false, Some(7)),
            (nexthop.message(), true, None),
            (name(nexthop.gateway), true, None),
        ] {
            assert_eq!(reported(&message, gone), Some((nexthop.gateway, device)), "{message:?}");
        }
        let other_gateway = Nexthop { gateway: Ipv4Addr::new(10, 1, 15, 1), ..nexthop }.message();
        let replaced = [&nexthop.message()[..16], &other_gateway[16..]].concat();
        assert_eq!(reported(&replaced, false), Some((nexthop.gateway, None)), "our number, another gateway");
        for length in 0..nexthop.message().len() {
            assert_eq!(Nexthop::read(&nexthop.message()[..length]), None, "cut at {length}");
        }
    }
}
