//! The device's own address: the subnet's base, as /32 or /128.

use std::net::IpAddr;

use anyhow::{Context, Result};
use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::Handle;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};

use super::family_of;

/// Leaves `wanted` as the device's only address of its family that is not link-local.
///
/// flanneld keeps IPv4 addresses outside its Network; nobody else has a reason to number its device.
pub(super) async fn ensure(handle: &Handle, device: u32, wanted: IpNet) -> Result<()> {
    let existing = list(handle, device, wanted).await.context("listing the device's addresses")?;
    let (present, others): (Vec<_>, Vec<_>) =
        existing.into_iter().partition(|message| read(message) == Some(wanted));
    // The new one first: with a device's last IPv4 address the kernel takes away its routes and neighbours.
    if present.is_empty() {
        let add = handle.address().add(device, wanted.addr(), wanted.prefix_len()).execute();
        add.await.with_context(|| format!("adding address {wanted}"))?;
    }
    for stale in others.into_iter().filter(is_replaceable) {
        remove(handle, stale).await?;
    }
    Ok(())
}

async fn list(handle: &Handle, device: u32, like: IpNet) -> Result<Vec<AddressMessage>, rtnetlink::Error> {
    let mut request = handle.address().get().set_link_index_filter(device);
    request.message_mut().header.index = device;
    request.message_mut().header.family = family_of(like.addr());
    request.execute().try_collect().await
}

async fn remove(handle: &Handle, stale: AddressMessage) -> Result<()> {
    let named = read(&stale);
    tracing::info!(address = ?named, "removing a stale address from the overlay device");
    handle.address().del(stale).execute().await.with_context(|| format!("removing stale address {named:?}"))
}

fn is_replaceable(message: &AddressMessage) -> bool {
    read(message).is_none_or(|address| !is_link_local(address.addr()))
}

/// Whether the kernel or zeroconf made the address for the link alone.
#[must_use]
pub const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn read(message: &AddressMessage) -> Option<IpNet> {
    IpNet::new(own(message)?, message.header.prefix_len).ok()
}

/// The interface's own address: IFA_LOCAL, which IPv6 leaves out unless there is a peer, whose address IFA_ADDRESS is then.
#[must_use]
pub fn own(message: &AddressMessage) -> Option<IpAddr> {
    let find = |is: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(is);
    let local = find(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}
