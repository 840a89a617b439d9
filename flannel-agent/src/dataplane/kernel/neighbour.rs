//! Permanent neighbours: gateway of a peer's subnet -> VTEP MAC (`ip neigh`).

use std::net::IpAddr;

use futures::{TryStreamExt, future};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourHeader, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::RouteType;
use rtnetlink::{Error, Handle};

use crate::dataplane::table::Table;
use crate::mac::Mac;
use crate::netlink::family_of;

/// Returns the permanent entry for a gateway on the device with this index.
pub(super) fn message(device: u32, gateway: IpAddr, mac: Mac) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header = NeighbourHeader {
        family: family_of(gateway),
        ifindex: device,
        state: NeighbourState::Permanent,
        kind: RouteType::Unicast,
        ..NeighbourHeader::default()
    };
    message.attributes = vec![
        NeighbourAttribute::Destination(gateway.into()),
        NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
    ];
    message
}

/// Returns an entry for any address, as if the kernel had resolved it itself.
pub(super) fn resolved(device: u32, address: IpAddr, mac: Mac) -> NeighbourMessage {
    let mut message = message(device, address, mac);
    message.header.state = NeighbourState::Reachable;
    message
}

/// Lists the permanent neighbours on the device.
pub(super) async fn dump(handle: &Handle, device: u32) -> Result<Table<IpAddr, Mac>, Error> {
    let mut neighbours = dump_family(handle, device, AddressFamily::Inet).await?;
    neighbours.extend(dump_family(handle, device, AddressFamily::Inet6).await?);
    Ok(neighbours.into_iter().collect())
}

async fn dump_family(
    handle: &Handle,
    device: u32,
    family: AddressFamily,
) -> Result<Vec<(IpAddr, Mac)>, Error> {
    let mut request = handle.neighbours().get().set_address_family(family);
    request.message_mut().attributes.push(NeighbourAttribute::IfIndex(device));
    request.execute().try_filter_map(|entry| future::ok(read(&entry, device))).try_collect().await
}

/// Returns address and MAC if flannel writes such entries on this device.
pub(super) fn read(entry: &NeighbourMessage, device: u32) -> Option<(IpAddr, Mac)> {
    let flannels = entry.header.ifindex == device && entry.header.state == NeighbourState::Permanent;
    if flannels { Some((destination(entry)?, mac(entry)?)) } else { None }
}

/// Returns the address in the entry. FDB entries have it as bytes, whose number tells the family.
pub(super) fn destination(entry: &NeighbourMessage) -> Option<IpAddr> {
    entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some((*address).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some((*address).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => from_bytes(bytes),
        _ => None,
    })
}

fn from_bytes(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from).ok();
    four.or_else(|| <[u8; 16]>::try_from(bytes).map(IpAddr::from).ok())
}

/// Returns the MAC in the entry.
pub(super) fn mac(entry: &NeighbourMessage) -> Option<Mac> {
    entry.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok().map(Mac),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_permanent_neighbours_of_the_device_are_read() {
        let (gateway, mac) = ("10.1.15.0".parse().unwrap(), "c6:d2:32:6f:8f:44".parse().unwrap());
        let entry = message(7, gateway, mac);
        assert_eq!(read(&entry, 7), Some((gateway, mac)));
        assert_eq!(read(&entry, 8), None);
        let mut learned = entry.clone();
        learned.header.state = NeighbourState::Reachable;
        assert_eq!(read(&learned, 7), None);
        let mut unresolved = entry;
        unresolved.attributes.pop();
        assert_eq!(read(&unresolved, 7), None);
    }
}
