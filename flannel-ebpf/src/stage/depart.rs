//! How packets leave for their node: IPv4 is wrapped here, IPv6 by the kernel's device.

use flannel_common::address::{V4, V6};
use flannel_common::lease::Lease;
use flannel_common::node::NodeConfig;
use flannel_common::outcome::Outcome;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::maps::IpFamily;
use crate::packet::Packet;
use crate::stage::parse::Inner;
use crate::stage::route::Routed;
use crate::stage::{deliver, encap, fit, path_mtu};
use crate::verdict::Carried;

/// A packet that skips the stack, with these headers one hop further, to a peer on the uplink's link: it needs no tunnel.
///
/// # Errors
/// Why it is the host stack's to carry.
#[inline(always)]
pub fn on_link<H: IpFamily>(
    packet: &Packet<'_>,
    inner: &Inner<'_, H>,
    routed: Routed<H>,
    node: &NodeConfig,
    lease: &Lease<H::Address>,
) -> Result<Carried, Outcome> {
    let local = H::overlay_end(node);
    fit::mtu(packet, inner, local.uplink_mtu)?;
    packet.write(0, &routed)?;
    Ok(deliver::to_neighbour::<H>(local, lease.public_ip))
}

/// A family's way from this node to another.
pub trait Depart: IpFamily {
    /// A packet that the host stack has routed into the vxlan device; or one that skips the stack, with these headers one
    /// hop further (`routed`). `mark`: the group's, 0 without group policy.
    ///
    /// # Errors
    /// Why it is the kernel device's to wrap, or the host stack's to carry.
    fn depart(
        packet: &Packet<'_>,
        inner: &Inner<'_, Self>,
        routed: Option<Routed<Self>>,
        node: &NodeConfig,
        lease: &Lease<Self::Address>,
        mark: u32,
    ) -> Result<Carried, Outcome>;
}

impl Depart for Ipv4Hdr {
    #[inline(always)]
    fn depart(
        packet: &Packet<'_>,
        inner: &Inner<'_, Self>,
        routed: Option<Routed<Self>>,
        node: &NodeConfig,
        lease: &Lease<V4>,
        mark: u32,
    ) -> Result<Carried, Outcome> {
        fit::uplink(packet, inner, &node.v4)?;
        match routed {
            Some(routed) => encap::push(packet, routed, inner.ip.tos, node, lease, mark)?,
            None => encap::push(packet, *inner.frame, inner.ip.tos, node, lease, mark)?,
        }
        Ok(deliver::to_uplink(&node.v4))
    }
}

impl Depart for Ipv6Hdr {
    /// The device reads the group from the packet's own mark.
    #[inline(always)]
    fn depart(
        packet: &Packet<'_>,
        inner: &Inner<'_, Self>,
        routed: Option<Routed<Self>>,
        node: &NodeConfig,
        lease: &Lease<V6>,
        _mark: u32,
    ) -> Result<Carried, Outcome> {
        let routed = routed.ok_or(Outcome::InnerIpv6)?;
        let outer_len = fit::uplink(packet, inner, &node.v6)?;
        path_mtu::check(packet, outer_len, &node.v6, lease)?;
        packet.write(0, &routed)?;
        Ok(deliver::through_overlay_device(&node.v6))
    }
}
