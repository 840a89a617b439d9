//! Makes the kernel ask user space for neighbours that it does not know (`app_solicit`): the overlay has no broadcast to
//! ask by.
//!
//! The setting is written by netlink, which takes CAP_NET_ADMIN and no writable /proc/sys (`RTM_SETNEIGHTBL`, Linux
//! 2.6.13). It is the device's own. The default of new devices would slow down all of them: with it, the kernel asks user
//! space alone for seconds before it sends its first ARP request.

use futures::StreamExt as _;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::neighbour_table::{
    NeighbourTableAttribute, NeighbourTableHeader, NeighbourTableMessage, NeighbourTableParameter,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{Error, Handle};
use tracing::info;

use crate::netlink::errno;

/// How often the kernel asks before it gives up. flannel before 0.8 used the same value.
const QUESTIONS: u32 = 3;

/// The kernel's neighbour tables.
const TABLES: [(AddressFamily, &str); 2] =
    [(AddressFamily::Inet, "arp_cache"), (AddressFamily::Inet6, "ndisc_cache")];

/// Makes the kernel ask for unknown neighbours behind this device.
pub(super) async fn ask_user_space(handle: &Handle, device: &str, index: u32) {
    for (family, table) in TABLES {
        match set(handle, message(family, table, index)).await {
            // No IPv6 in the kernel, or on the device.
            Err(error) if family == AddressFamily::Inet6 && errno(&error) == libc::ENOENT => {}
            Err(error) => {
                info!(device, table, %error, "app_solicit cannot be set: the kernel will not ask for neighbours");
            }
            Ok(()) => {}
        }
    }
}

fn message(family: AddressFamily, table: &str, device: u32) -> NeighbourTableMessage {
    let mut message = NeighbourTableMessage::default();
    message.header = NeighbourTableHeader { family };
    message.attributes = vec![
        NeighbourTableAttribute::Name(table.to_owned()),
        NeighbourTableAttribute::Parms(vec![
            NeighbourTableParameter::Ifindex(device),
            NeighbourTableParameter::AppProbes(QUESTIONS),
        ]),
    ];
    message
}

async fn set(handle: &Handle, message: NeighbourTableMessage) -> Result<(), Error> {
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::SetNeighbourTable(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut answers = handle.clone().request(request)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            return Err(Error::NetlinkError(error));
        }
    }
    Ok(())
}
