//! The device's own address: the subnet's base, as /32 or /128.

use anyhow::{Context, Result};
use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::Handle;
use rtnetlink::packet_route::address::AddressMessage;

use crate::netlink::address::{is_link_local, net_of};
use crate::netlink::family_of;

/// Leaves `wanted` as the device's only address of its family that is not link-local.
///
/// flanneld keeps IPv4 addresses outside its Network. Nothing but flannel has a reason to number the device.
pub(super) async fn ensure(handle: &Handle, device: u32, wanted: IpNet) -> Result<()> {
    let existing = list(handle, device, wanted).await.context("listing the device's addresses")?;
    let (present, others): (Vec<_>, Vec<_>) =
        existing.into_iter().partition(|message| net_of(message) == Some(wanted));
    // Adds before it removes: with a device's last IPv4 address the kernel removes its routes and neighbours.
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
    let address = net_of(&stale);
    tracing::info!(?address, "removing a stale address from the overlay device");
    handle.address().del(stale).execute().await.with_context(|| format!("removing stale address {address:?}"))
}

fn is_replaceable(message: &AddressMessage) -> bool {
    net_of(message).is_none_or(|address| !is_link_local(address.addr()))
}
