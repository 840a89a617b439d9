//! How packets leave for their node: IPv4 is wrapped here, IPv6 by the kernel's device.

use flannel_common::address::V4;
use flannel_common::lease::Lease;
use flannel_common::node::Node;
use flannel_common::outcome::Outcome;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::maps::Family;
use crate::packet::{Header, Packet};
use crate::stage::parse::Inner;
use crate::stage::route::Routed;
use crate::stage::{deliver, encap, fit, path_mtu};
use crate::verdict::Carried;

/// A family's way from this node to another.
pub trait Depart: Family {
    /// A packet that the host stack has routed into the vxlan device. `mark`: the group's, 0 without group policy.
    ///
    /// # Errors
    /// Why it is the kernel device's to wrap.
    fn from_stack(
        packet: &Packet<'_>,
        inner: &Inner<'_, Self>,
        node: &Node,
        lease: &Lease<Self::Address>,
        mark: u32,
    ) -> Result<Carried, Outcome>;

    /// A packet that skips the host stack, with its headers one hop further. `mark`: as of [`Self::from_stack`].
    ///
    /// # Errors
    /// Why it is the host stack's to carry.
    fn past_stack(
        packet: &Packet<'_>,
        inner: &Inner<'_, Self>,
        routed: Routed<Self>,
        node: &Node,
        lease: &Lease<Self::Address>,
        mark: u32,
    ) -> Result<Carried, Outcome>;
}

impl Depart for Ipv4Hdr {
    #[inline(always)]
    fn from_stack(
        packet: &Packet<'_>,
        inner: &Inner<'_, Self>,
        node: &Node,
        lease: &Lease<Self::Address>,
        mark: u32,
    ) -> Result<Carried, Outcome> {
        wrap(packet, inner, *inner.frame, node, lease, mark)
    }

    #[inline(always)]
    fn past_stack(
        packet: &Packet<'_>,
        inner: &Inner<'_, Self>,
        routed: Routed<Self>,
        node: &Node,
        lease: &Lease<Self::Address>,
        mark: u32,
    ) -> Result<Carried, Outcome> {
        wrap(packet, inner, routed, node, lease, mark)
    }
}

#[inline(always)]
fn wrap<T: Header>(
    packet: &Packet<'_>,
    inner: &Inner<'_, Ipv4Hdr>,
    front: T,
    node: &Node,
    lease: &Lease<V4>,
    mark: u32,
) -> Result<Carried, Outcome> {
    fit::uplink(packet, inner, &node.v4)?;
    encap::push(packet, front, inner.ip.tos, node, lease, mark)?;
    Ok(deliver::to_uplink(&node.v4))
}

impl Depart for Ipv6Hdr {
    #[inline(always)]
    fn from_stack(
        _: &Packet<'_>,
        _: &Inner<'_, Self>,
        _: &Node,
        _: &Lease<Self::Address>,
        _: u32,
    ) -> Result<Carried, Outcome> {
        Err(Outcome::InnerIpv6)
    }

    #[inline(always)]
    fn past_stack(
        packet: &Packet<'_>,
        inner: &Inner<'_, Self>,
        routed: Routed<Self>,
        node: &Node,
        lease: &Lease<Self::Address>,
        _: u32,
    ) -> Result<Carried, Outcome> {
        let outer_len = fit::uplink(packet, inner, &node.v6)?;
        path_mtu::check(packet, outer_len, &node.v6, lease)?;
        packet.write(0, &routed)?;
        Ok(deliver::through_overlay_device(&node.v6))
    }
}
