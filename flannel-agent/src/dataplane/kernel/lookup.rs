//! What the kernel would do with one packet: the same look-ups, asked one by one and without consequences.

use std::net::IpAddr;
use std::pin::pin;

use anyhow::{Context, Result};
use futures::TryStreamExt;
use rtnetlink::Error;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteType, RouteVia};

use super::interface::Interface;
use super::{Kernel, family_of, neighbour, route};
use crate::mac::Mac;

/// A packet that looks for its way.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Its destination.
    pub destination: IpAddr,
    /// Where it comes from, and the index of the interface that it comes in by; none: it is the host's own.
    pub forwarded: Option<(IpAddr, u32)>,
}

/// What the routing tables say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The destination is this host.
    Local,
    /// Out of the interface with this index, to the gateway, if any, or to the destination itself.
    Out(u32, Option<IpAddr>),
    /// No way, and why.
    Refused(&'static str),
}

/// A neighbour's state, and its MAC if that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Where frames to it go.
    pub mac: Option<Mac>,
    /// As `ip neigh` shows it.
    pub state: &'static str,
}

impl Kernel {
    /// Routes a packet (`ip route get`).
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub async fn way(&self, question: Question) -> Result<Way> {
        let destination = question.destination;
        match pin!(self.handle.route().get(request(question)).execute()).try_next().await {
            Ok(route) => Ok(route.as_ref().map_or(Way::Refused(NO_ROUTE), way)),
            Err(Error::NetlinkError(refused)) => match -refused.raw_code() {
                libc::EHOSTUNREACH if question.forwarded.is_some() => Ok(Way::Refused(NOT_FORWARDED)),
                errno => Ok(Way::Refused(refusal(errno))),
            },
            Err(error) => Err(error).with_context(|| format!("asking the way to {destination}")),
        }
    }

    /// The interface with this index; `None` if there is none.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub async fn interface(&self, index: u32) -> Result<Option<Interface>> {
        match pin!(self.handle.link().get().match_index(index).execute()).try_next().await {
            Ok(link) => Ok(link.as_ref().map(Interface::of)),
            Err(Error::NetlinkError(refused)) if -refused.raw_code() == libc::ENODEV => Ok(None),
            Err(error) => Err(error).with_context(|| format!("asking for interface {index}")),
        }
    }

    /// The neighbour with this address behind an interface (`ip neigh show ADDRESS dev ...`), if it has an entry.
    ///
    /// # Errors
    /// If the dump fails.
    pub async fn neighbour(&self, interface: u32, address: IpAddr) -> Result<Option<Neighbour>> {
        let by = NeighbourAttribute::IfIndex(interface);
        let entries = self.neighbours(family_of(address), 0, Some(by)).await.context("listing neighbours")?;
        let is_it = |entry: &&NeighbourMessage| {
            entry.header.ifindex == interface && neighbour::destination(entry) == Some(address)
        };
        Ok(entries
            .iter()
            .find(is_it)
            .map(|entry| Neighbour { mac: neighbour::mac(entry), state: name_of(entry.header.state) }))
    }

    /// The node that a vxlan device sends frames for this MAC to (`bridge fdb show dev ...`), if it has an entry.
    ///
    /// # Errors
    /// If the dump fails.
    pub async fn tunnel_end(&self, device: u32, mac: Mac) -> Result<Option<IpAddr>> {
        let entries =
            self.neighbours(AddressFamily::Bridge, device, None).await.context("listing FDB entries")?;
        Ok(entries
            .iter()
            .filter(|entry| entry.header.ifindex == device && is_to(entry, mac))
            .find_map(neighbour::destination))
    }

    /// The index of the port by which a bridge reaches this MAC (`bridge fdb show br ...`), if it has learnt one.
    ///
    /// # Errors
    /// If the dump fails.
    pub async fn bridge_port(&self, bridge: u32, mac: Mac) -> Result<Option<u32>> {
        let by = NeighbourAttribute::Controller(bridge);
        let entries =
            self.neighbours(AddressFamily::Bridge, 0, Some(by)).await.context("listing FDB entries")?;
        let is_behind = |entry: &&NeighbourMessage| {
            is_to(entry, mac)
                && entry.header.state != NeighbourState::Permanent
                && entry.attributes.contains(&NeighbourAttribute::Controller(bridge))
        };
        Ok(entries.iter().find(is_behind).map(|entry| entry.header.ifindex))
    }

    async fn neighbours(
        &self,
        family: AddressFamily,
        device: u32,
        by: Option<NeighbourAttribute>,
    ) -> Result<Vec<NeighbourMessage>, Error> {
        let _dumping = self.dumping.lock().await;
        let mut request = self.handle.neighbours().get().set_address_family(family);
        request.message_mut().header.ifindex = device;
        request.message_mut().attributes.extend(by);
        request.execute().try_collect().await
    }
}

fn is_to(entry: &NeighbourMessage, mac: Mac) -> bool {
    neighbour::mac(entry) == Some(mac)
}

/// Under strict checks the header has the lengths of the addresses and nothing else.
fn request(Question { destination, forwarded }: Question) -> RouteMessage {
    let whole = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
    let mut request = RouteMessage::default();
    request.header.address_family = family_of(destination);
    request.header.destination_prefix_length = whole(destination);
    request.attributes.push(RouteAttribute::Destination(destination.into()));
    if let Some((source, interface)) = forwarded {
        request.header.source_prefix_length = whole(source);
        request.attributes.push(RouteAttribute::Source(source.into()));
        request.attributes.push(RouteAttribute::Iif(interface));
    }
    request
}

const NO_ROUTE: &str = "there is no route";
/// There is one errno for all of this, where the packet is not the host's own.
const NOT_FORWARDED: &str = "forwarding is off, or no route leads there";

/// The kernel's net/ipv4/route.c and net/ipv6/route.c: a route that forbids answers with its errno, and so do
/// checks of the source.
const fn refusal(errno: i32) -> &'static str {
    match errno {
        libc::ENETUNREACH => NO_ROUTE,
        libc::EHOSTUNREACH => "the route says unreachable",
        libc::EACCES => "the route says prohibited",
        libc::EINVAL => "the route is a blackhole, or the source cannot come from there",
        libc::EXDEV => "the reverse path filter does not let the source come from there",
        _ => "the kernel refuses to route it",
    }
}

fn way(message: &RouteMessage) -> Way {
    match message.header.kind {
        RouteType::Local => return Way::Local,
        RouteType::Unreachable => return Way::Refused(refusal(libc::EHOSTUNREACH)),
        RouteType::BlackHole => return Way::Refused(refusal(libc::EINVAL)),
        RouteType::Prohibit => return Way::Refused(refusal(libc::EACCES)),
        _ => {}
    }
    let (mut interface, mut gateway) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(address) => gateway = route::ip(address),
            RouteAttribute::Via(RouteVia::Inet(address)) => gateway = Some((*address).into()),
            RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some((*address).into()),
            _ => {}
        }
    }
    interface.map_or(Way::Refused(NO_ROUTE), |interface| Way::Out(interface, gateway))
}

const fn name_of(state: NeighbourState) -> &'static str {
    match state {
        NeighbourState::Incomplete => "incomplete",
        NeighbourState::Reachable => "reachable",
        NeighbourState::Stale => "stale",
        NeighbourState::Delay => "delay",
        NeighbourState::Probe => "probe",
        NeighbourState::Failed => "failed",
        NeighbourState::Noarp => "noarp",
        NeighbourState::Permanent => "permanent",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: RouteType, attributes: &[RouteAttribute]) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.kind = kind;
        message.attributes = attributes.to_vec();
        message
    }

    #[test]
    fn the_way_is_read_from_the_kernels_answer() {
        let (gateway, v6): (IpAddr, _) = ("10.1.15.0".parse().unwrap(), "fe80::1".parse().unwrap());
        let by = || RouteAttribute::Oif(7);
        let table: [(_, &[_], _); 7] = [
            (RouteType::Local, &[RouteAttribute::Oif(1)], Way::Local),
            (RouteType::Unicast, &[by()], Way::Out(7, None)),
            (
                RouteType::Unicast,
                &[by(), RouteAttribute::Gateway(gateway.into())],
                Way::Out(7, Some(gateway)),
            ),
            (
                RouteType::Unicast,
                &[by(), RouteAttribute::Via(RouteVia::Inet6(v6))],
                Way::Out(7, Some(v6.into())),
            ),
            (RouteType::Unreachable, &[], Way::Refused(refusal(libc::EHOSTUNREACH))),
            (RouteType::BlackHole, &[], Way::Refused(refusal(libc::EINVAL))),
            (RouteType::Unicast, &[], Way::Refused(NO_ROUTE)),
        ];
        for (kind, attributes, expected) in table {
            assert_eq!(way(&message(kind, attributes)), expected, "{kind:?} {attributes:?}");
        }
    }

    #[test]
    fn a_question_names_its_addresses_whole() {
        let (source, destination) = ("10.1.90.2".parse().unwrap(), "10.1.15.7".parse().unwrap());
        let own = request(Question { destination, forwarded: None });
        assert_eq!((own.header.destination_prefix_length, own.header.source_prefix_length), (32, 0));
        assert_eq!(own.attributes, [RouteAttribute::Destination(destination.into())]);
        let forwarded = request(Question { destination, forwarded: Some((source, 3)) });
        assert_eq!(forwarded.header.source_prefix_length, 32);
        assert_eq!(
            forwarded.attributes[1..],
            [RouteAttribute::Source(source.into()), RouteAttribute::Iif(3)]
        );
    }
}
