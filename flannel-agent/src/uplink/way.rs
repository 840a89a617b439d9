//! The way to one address, as the kernel would take it.

use std::net::IpAddr;
use std::pin::pin;

use futures::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{Error, Handle};

/// The way to one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Index of the interface it leads through.
    pub index: u32,
    /// The source address that the kernel chooses for it.
    pub source: Option<IpAddr>,
    /// Whether there is no router on it.
    pub on_link: bool,
}

/// `None` if there is no way.
pub(crate) async fn way_to(handle: &Handle, address: IpAddr) -> Result<Option<Way>, Error> {
    // Nothing else may be set in the header under strict checks.
    let mut request = RouteMessage::default();
    (request.header.address_family, request.header.destination_prefix_length) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    request.attributes.push(RouteAttribute::Destination(address.into()));
    match pin!(handle.route().get(request).execute()).try_next().await {
        Ok(route) => Ok(route.as_ref().and_then(way)),
        Err(Error::NetlinkError(refused)) if NO_WAY.contains(&-refused.raw_code()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// No route, or one that forbids (`unreachable`, `blackhole`, `prohibit`).
const NO_WAY: [i32; 4] = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EINVAL, libc::EACCES];

fn way(route: &RouteMessage) -> Option<Way> {
    let (mut index, mut source, mut on_link) = (None, None, true);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(through) => index = Some(*through),
            RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some((*address).into()),
            RouteAttribute::PrefSource(RouteAddress::Inet6(address)) => source = Some((*address).into()),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_) => {
                on_link = false;
            }
            _ => {}
        }
    }
    index.map(|index| Way { index, source, on_link })
}
