//! FDB entries of the vxlan device: VTEP MAC -> node (`bridge fdb`).

use std::net::IpAddr;

use futures::{TryStreamExt, future};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourHeader, NeighbourMessage, NeighbourState,
};
use rtnetlink::{Error, Handle};

use super::neighbour;
use crate::dataplane::table::Table;
use crate::mac::Mac;

/// Returns the FDB entry for a VTEP MAC on the device with this index. Removing it needs no destination.
pub(super) fn message(device: u32, mac: Mac, destination: Option<IpAddr>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header = NeighbourHeader {
        family: AddressFamily::Bridge,
        ifindex: device,
        state: NeighbourState::Permanent,
        flags: NeighbourFlags::Own,
        ..NeighbourHeader::default()
    };
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message.attributes.extend(destination.map(|ip| NeighbourAttribute::Destination(ip.into())));
    message
}

/// Lists the permanent entries of the device that have a destination.
///
/// There is one for each MAC: the kernel appends destinations only to multicast MACs and to the all-zero one.
pub(super) async fn dump(handle: &Handle, device: u32) -> Result<Table<Mac, IpAddr>, Error> {
    let mut request = handle.neighbours().get().set_address_family(AddressFamily::Bridge);
    request.message_mut().header.ifindex = device;
    let entries: Vec<_> =
        request.execute().try_filter_map(|entry| future::ok(read(&entry, device))).try_collect().await?;
    Ok(entries.into_iter().collect())
}

/// Returns MAC and node if flannel writes such entries on this device.
pub(super) fn read(entry: &NeighbourMessage, device: u32) -> Option<(Mac, IpAddr)> {
    let permanent = u16::from(entry.header.state) & u16::from(NeighbourState::Permanent) != 0;
    let flannels =
        entry.header.ifindex == device && permanent && entry.header.flags.contains(NeighbourFlags::Own);
    // The all-zero MAC is the device's default destination.
    let mac = neighbour::mac(entry).filter(|mac| flannels && mac.is_unicast())?;
    Some((mac, neighbour::destination(entry)?))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const MAC: Mac = Mac([0xc6, 0xd2, 0x32, 0x6f, 0x8f, 0x44]);
    const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 64, 3));

    #[test]
    fn only_entries_that_lead_to_a_node_are_read() {
        let entry = message(7, MAC, Some(NODE));
        assert_eq!(read(&entry, 7), Some((MAC, NODE)));
        assert_eq!(read(&entry, 8), None);
        assert_eq!(read(&message(7, Mac([0; 6]), Some(NODE)), 7), None);
        assert_eq!(read(&message(7, Mac([0x33, 0x33, 0, 0, 0, 1]), Some(NODE)), 7), None);
        assert_eq!(read(&message(7, MAC, None), 7), None);
        let mut learned = entry;
        learned.header.state = NeighbourState::Reachable;
        assert_eq!(read(&learned, 7), None);
    }
}
