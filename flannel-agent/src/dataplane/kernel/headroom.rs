//! Room for outer headers in front of pods' packets, so that the kernel need not copy a packet to wrap it.
//!
//! A pod's interface leaves as much room in front of each packet as the bridge behind it asks for. The bridge asks for what its
//! port needs that needs most, and computes that again only when a port leaves that needs just as much (`del_nbp` in
//! net/bridge/br_if.c, since Linux 4.6). So a port that needs [`ROOM`] is added for a moment, and needs less when it leaves: what
//! the bridge asks for stays, also for ports to come, as long as there is the bridge.
//!
//! The port is a vxlan device, which needs what its lower device needs and 64 bytes more. None of the devices is ever up.
//! With a kernel that computes it again in any case, packets are copied as before.

use anyhow::{Context as _, Result};
use rtnetlink::{Handle, LinkUnspec, LinkVxlan};

use crate::netlink::link;

/// Room in bytes: a vxlan device on another one. Outer headers are 50 bytes long over IPv4, and 70 over IPv6.
pub const ROOM: usize = 128;

/// Index of the loopback device in every network namespace.
const LOOPBACK: u32 = 1;
/// Ports of the devices, as the kernel allows a VNI and port once: two networks of a node do not get in each other's way. Devices that
/// are down do not open them.
const PORTS: [u16; 2] = [9, 10];
/// The largest that the kernel accepts. The bridge's MTU follows that of its smallest port.
const MTU: u32 = 65_535 - 64;
/// The bridge has the lowest MAC of its ports, unless it has been given one.
const HIGHEST_MAC: [u8; 6] = [0xfe, 0xff, 0xff, 0xff, 0xff, 0xff];

/// See [`super::Kernel::make_headroom`].
pub(super) async fn make(handle: &Handle, vni: u32, bridge: u32) -> Result<()> {
    let [lower, port] = link::headroom_devices(vni);
    // An agent may have been ended between the steps.
    remove(handle, &port).await?;
    remove(handle, &lower).await?;
    let made = raise(handle, vni, [&lower, &port], bridge).await;
    let removed = remove(handle, &port).await.and(remove(handle, &lower).await);
    made.and(removed)
}

/// Adds the port to the bridge, and lowers what it needs.
async fn raise(handle: &Handle, vni: u32, [lower, port]: [&str; 2], bridge: u32) -> Result<()> {
    let link = LinkVxlan::new(lower, vni).port(PORTS[0]).mtu(MTU).build();
    handle.link().add(link).execute().await.with_context(|| format!("creating {lower}"))?;
    let lower = link::by_name(handle, lower).await?.with_context(|| format!("{lower} was deleted"))?;
    let link = LinkVxlan::new(port, vni).port(PORTS[1]).dev(lower.index).mtu(MTU - 50);
    let link = link.address(HIGHEST_MAC.to_vec()).build();
    handle.link().add(link).execute().await.with_context(|| format!("creating {port}"))?;
    let join = LinkUnspec::new_with_name(port).controller(bridge).build();
    handle.link().change(join).execute().await.with_context(|| format!("adding {port} to a bridge"))?;
    let lessen = LinkVxlan::new(port, vni).dev(LOOPBACK).build();
    handle.link().change(lessen).execute().await.with_context(|| format!("changing {port}"))
}

async fn remove(handle: &Handle, name: &str) -> Result<()> {
    let Some(link) = link::by_name(handle, name).await? else { return Ok(()) };
    handle.link().del(link.index).execute().await.with_context(|| format!("removing {name}"))
}
