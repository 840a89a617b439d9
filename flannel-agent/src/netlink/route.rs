//! Routes, and look-ups in the routing tables.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::pin;

use futures::{TryStream, TryStreamExt as _};
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType, RouteVia,
};
use rtnetlink::{Error, Handle};

use super::{errno, family_of};

/// A packet to route.
#[derive(Clone, Copy, Debug)]
pub struct RouteQuery {
    /// Its destination.
    pub destination: IpAddr,
    /// Its source and the index of the interface that received it; `None` for a packet that the host sends
    /// itself.
    pub forwarded: Option<(IpAddr, u32)>,
}

/// An outer packet of the host itself to route.
#[derive(Clone, Copy, Debug)]
pub struct HostQuery {
    /// Its destination.
    pub destination: IpAddr,
    /// Its source, an address of the host.
    pub source: IpAddr,
    /// Its mark; 0 for none.
    pub mark: u32,
    /// Its UDP destination port.
    pub port: u16,
}

/// What the host does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteAnswer {
    /// Receives it.
    Local(Hop),
    /// Sends or forwards it.
    Out(Hop),
    /// Refuses it, for this reason.
    Refused(&'static str),
}

/// The next step of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Index of the interface that it leaves by.
    pub interface: u32,
    /// The router that it is sent to; `None` if its destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The source address that the kernel chooses for a packet of its own.
    pub source: Option<IpAddr>,
}

const IPPROTO_UDP: u8 = 17;
const NO_ROUTE: &str = "there is no route";
/// Forwarding has one errno for both.
const NOT_FORWARDED: &str = "forwarding is off, or no route leads there";

/// Looks up the route of a packet (`ip route get`).
///
/// # Errors
/// The kernel does not answer.
pub async fn look_up(handle: &Handle, query: RouteQuery) -> Result<RouteAnswer, Error> {
    ask(handle, request(query), query.forwarded.is_some()).await
}

/// Looks up the route of a UDP packet of the host itself (`ip route get ADDRESS mark MARK ipproto udp dport PORT`).
///
/// # Errors
/// The kernel does not answer.
pub async fn look_up_host(handle: &Handle, query: HostQuery) -> Result<RouteAnswer, Error> {
    let HostQuery { destination, source, mark, port } = query;
    let mut request = request(RouteQuery { destination, forwarded: None });
    request.header.source_prefix_length = request.header.destination_prefix_length;
    request.attributes.extend([
        RouteAttribute::Source(source.into()),
        RouteAttribute::Mark(mark),
        RouteAttribute::IpProto(IPPROTO_UDP),
        RouteAttribute::Dport(port),
    ]);
    ask(handle, request, false).await
}

async fn ask(handle: &Handle, request: RouteMessage, is_forwarded: bool) -> Result<RouteAnswer, Error> {
    match pin!(handle.route().get(request).execute()).try_next().await {
        Ok(route) => Ok(route.as_ref().map_or(RouteAnswer::Refused(NO_ROUTE), answer)),
        Err(error) => match errno(&error) {
            libc::EHOSTUNREACH if is_forwarded => Ok(RouteAnswer::Refused(NOT_FORWARDED)),
            errno => refusal(errno).map(RouteAnswer::Refused).ok_or(error),
        },
    }
}

/// Under strict checks the header has the lengths of the addresses and nothing else.
fn request(RouteQuery { destination, forwarded }: RouteQuery) -> RouteMessage {
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

/// Explains an errno of a look-up (the kernel's net/ipv4/route.c and net/ipv6/route.c). A route that forbids
/// answers with its errno, and so do checks of the source.
const fn refusal(errno: i32) -> Option<&'static str> {
    match errno {
        libc::ENETUNREACH => Some(NO_ROUTE),
        libc::EHOSTUNREACH => Some("the route says unreachable"),
        libc::EACCES => Some("the route says prohibited"),
        libc::EINVAL => Some("the route is a blackhole, or the source cannot come from there"),
        libc::EXDEV => Some("the reverse path filter does not let the source come from there"),
        _ => None,
    }
}

fn answer(message: &RouteMessage) -> RouteAnswer {
    let forbidden = match message.header.kind {
        RouteType::Unreachable => refusal(libc::EHOSTUNREACH),
        RouteType::BlackHole => refusal(libc::EINVAL),
        RouteType::Prohibit => refusal(libc::EACCES),
        _ => None,
    };
    match (forbidden, hop(message)) {
        (Some(reason), _) => RouteAnswer::Refused(reason),
        (None, Some(hop)) if message.header.kind == RouteType::Local => RouteAnswer::Local(hop),
        (None, Some(hop)) => RouteAnswer::Out(hop),
        (None, None) => RouteAnswer::Refused(NO_ROUTE),
    }
}

fn hop(message: &RouteMessage) -> Option<Hop> {
    let (mut interface, mut gateway, mut source) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(address) => gateway = ip_of(address),
            RouteAttribute::Via(RouteVia::Inet(address)) => gateway = Some((*address).into()),
            RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some((*address).into()),
            RouteAttribute::PrefSource(address) => source = ip_of(address),
            _ => {}
        }
    }
    interface.map(|interface| Hop { interface, gateway, source })
}

/// Looks up the MTU in bytes that the route to an address through this interface has of its own, or has learnt.
///
/// # Errors
/// The kernel does not answer.
pub async fn look_up_mtu(handle: &Handle, destination: IpAddr, interface: u32) -> Result<Option<u32>, Error> {
    let mut request = request(RouteQuery { destination, forwarded: None });
    request.attributes.push(RouteAttribute::Oif(interface));
    match pin!(handle.route().get(request).execute()).try_next().await {
        Ok(route) => Ok(route.as_ref().and_then(mtu_of)),
        Err(error) if refusal(errno(&error)).is_some() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the MTU in bytes that a route has of its own (`ip route add ... mtu 1400`).
#[must_use]
pub fn mtu_of(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => metrics.iter().find_map(|metric| match metric {
            RouteMetric::Mtu(mtu) if *mtu != 0 => Some(*mtu),
            _ => None,
        }),
        _ => None,
    })
}

/// Lists the routes of all tables through this interface.
pub fn list_all(
    handle: &Handle,
    family: AddressFamily,
    interface: u32,
) -> impl TryStream<Ok = RouteMessage, Error = Error> {
    let mut request = RouteMessage::default();
    request.header.address_family = family;
    request.attributes.push(RouteAttribute::Oif(interface));
    handle.route().get(request).execute()
}

/// Lists the routes of the main table, through one interface or all.
pub fn list(
    handle: &Handle,
    family: AddressFamily,
    interface: Option<u32>,
) -> impl TryStream<Ok = RouteMessage, Error = Error> {
    let mut request = RouteMessage::default();
    request.header.address_family = family;
    request.header.table = RouteHeader::RT_TABLE_MAIN;
    request.attributes.extend(interface.map(RouteAttribute::Oif));
    handle.route().get(request).execute()
}

/// Lists the next hops of the main table by destination, without default routes.
///
/// # Errors
/// The dump fails.
pub async fn next_hops(handle: &Handle, family: AddressFamily) -> Result<BTreeMap<IpNet, Hop>, Error> {
    let mut hops = BTreeMap::new();
    let mut routes = pin!(list(handle, family, None).into_stream());
    while let Some(route) = routes.try_next().await? {
        if route.header.kind == RouteType::Unicast
            && let Some((destination, hop)) = destination_of(&route).zip(hop(&route))
        {
            hops.entry(destination).or_insert(hop);
        }
    }
    Ok(hops)
}

/// Returns the route to this network in the main table, `proto boot` as flanneld writes its routes, without a
/// next hop.
#[must_use]
pub fn message(destination: IpNet, kind: RouteType) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family_of(destination.addr()),
        destination_prefix_length: destination.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Boot,
        scope: RouteScope::Universe,
        kind,
        ..RouteHeader::default()
    };
    message.attributes = vec![RouteAttribute::Destination(destination.network().into())];
    message
}

/// Returns the destination of a route; `None` for a default route.
#[must_use]
pub fn destination_of(route: &RouteMessage) -> Option<IpNet> {
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip_of(address),
        _ => None,
    })?;
    IpNet::new(destination, route.header.destination_prefix_length).ok()
}

/// Whether a route leads through the interface with this index.
#[must_use]
pub fn is_through(route: &RouteMessage, interface: u32) -> bool {
    route.attributes.contains(&RouteAttribute::Oif(interface))
}

/// Returns the IP address in an attribute of a route.
#[must_use]
pub const fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
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
    fn the_kernels_answer_is_read() {
        let (gateway, v6): (IpAddr, _) = ("10.1.15.0".parse().unwrap(), "fe80::1".parse().unwrap());
        let source: IpAddr = "192.168.64.3".parse().unwrap();
        let by = || RouteAttribute::Oif(7);
        let hop = Hop { interface: 7, gateway: None, source: None };
        let table: [(_, &[_], _); 8] = [
            (RouteType::Local, &[RouteAttribute::Oif(1)], RouteAnswer::Local(Hop { interface: 1, ..hop })),
            (RouteType::Unicast, &[by()], RouteAnswer::Out(hop)),
            (
                RouteType::Unicast,
                &[by(), RouteAttribute::Gateway(gateway.into())],
                RouteAnswer::Out(Hop { gateway: Some(gateway), ..hop }),
            ),
            (
                RouteType::Unicast,
                &[by(), RouteAttribute::Via(RouteVia::Inet6(v6))],
                RouteAnswer::Out(Hop { gateway: Some(v6.into()), ..hop }),
            ),
            (
                RouteType::Unicast,
                &[by(), RouteAttribute::PrefSource(source.into())],
                RouteAnswer::Out(Hop { source: Some(source), ..hop }),
            ),
            (RouteType::Unreachable, &[], RouteAnswer::Refused("the route says unreachable")),
            (
                RouteType::BlackHole,
                &[],
                RouteAnswer::Refused("the route is a blackhole, or the source cannot come from there"),
            ),
            (RouteType::Unicast, &[], RouteAnswer::Refused(NO_ROUTE)),
        ];
        for (kind, attributes, expected) in table {
            assert_eq!(answer(&message(kind, attributes)), expected, "{kind:?} {attributes:?}");
        }
    }

    #[test]
    fn a_query_names_its_addresses_whole() {
        let (source, destination) = ("10.1.90.2".parse().unwrap(), "10.1.15.7".parse().unwrap());
        let own = request(RouteQuery { destination, forwarded: None });
        assert_eq!((own.header.destination_prefix_length, own.header.source_prefix_length), (32, 0));
        assert_eq!(own.attributes, [RouteAttribute::Destination(destination.into())]);
        let forwarded = request(RouteQuery { destination, forwarded: Some((source, 3)) });
        assert_eq!(forwarded.header.source_prefix_length, 32);
        assert_eq!(
            forwarded.attributes[1..],
            [RouteAttribute::Source(source.into()), RouteAttribute::Iif(3)]
        );
    }
}
