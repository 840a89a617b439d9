//! How packets leave for their node: BPF wraps IPv4, and the kernel's vxlan device wraps IPv6.

use flannel_common::address::{V4, V6};
use flannel_common::flow::{Direction, Way};
use flannel_common::node::FLOOR_WRAPS;
use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::ip::Ip as _;
use crate::maps::{IpFamily, NodeRef};
use crate::stage::outgoing::Outgoing;
use crate::stage::translate::Front;
use crate::stage::way::{self, Route};
use crate::stage::{deliver, encap, fit};
use crate::verdict::Carried;

impl<H: IpFamily> Outgoing<'_, H> {
    /// Sends a packet that skips the stack, with these headers, to a peer on the uplink's link. It needs no tunnel.
    ///
    /// # Errors
    /// Why the host stack has to carry it.
    #[inline(always)]
    pub fn transmit_on_link(&self, front: &Front<H>, way: &Way<H::Address>) -> Result<Carried, Outcome> {
        let local = H::overlay_end(self.node);
        fit::mtu(self.packet, self.inner, way.mtu)?;
        front.headers.write(self.packet, 0)?;
        front.complete(self.packet, 0, Direction::Egress)?;
        deliver::to_next_hop::<H>(self.packet, local, way)
    }
}

/// A family's way through the tunnel.
pub trait Transmit: IpFamily + Route {
    /// Sends a packet that the host stack has routed into the vxlan device to its peer. `route_mtu`:
    /// [`Lease::route_mtu`](flannel_common::lease::Lease::route_mtu).
    ///
    /// # Errors
    /// Why the kernel's vxlan device has to wrap it.
    fn wrap(outgoing: &Outgoing<'_, Self>, route_mtu: u32) -> Result<Carried, Outcome>;

    /// Sends a packet that skips the stack, with these headers, to its peer.
    ///
    /// # Errors
    /// Why the host stack has to carry it.
    fn transmit(
        outgoing: &Outgoing<'_, Self>,
        front: &Front<Self>,
        way: &Way<Self::Address>,
        now: u64,
    ) -> Result<Carried, Outcome>;
}

impl Transmit for Ipv4Hdr {
    #[inline(always)]
    fn wrap(outgoing: &Outgoing<'_, Self>, route_mtu: u32) -> Result<Carried, Outcome> {
        let Outgoing { packet, inner, node, peer, .. } = *outgoing;
        ensure_unobstructed(node)?;
        let outer_len = fit::outer(packet, inner, node.v4().uplink_mtu())?;
        way::check::<Self>(packet, outer_len, node.v4(), peer, route_mtu)?;
        encap::push(outgoing, inner.frame.0)?;
        Ok(deliver::to_uplink(node.v4()))
    }

    #[inline(always)]
    fn transmit(
        outgoing: &Outgoing<'_, Self>,
        front: &Front<Self>,
        way: &Way<V4>,
        now: u64,
    ) -> Result<Carried, Outcome> {
        let Outgoing { packet, inner, node, peer, .. } = *outgoing;
        ensure_unobstructed(node)?;
        let outer_len = fit::outer(packet, inner, way.mtu)?;
        way::check_again::<Self>(packet, outer_len, node.v4(), peer, now)?;
        encap::push(outgoing, front.headers.frame.0)?;
        let start = EthHdr::LEN + Self::OUTER_LEN;
        packet.write(start + EthHdr::LEN, &front.headers.ip)?;
        front.complete(packet, start, Direction::Egress)?;
        deliver::to_next_hop::<Self>(packet, node.v4(), way)
    }
}

#[inline(always)]
fn ensure_unobstructed(node: NodeRef) -> Result<(), Outcome> {
    if node.floor() & FLOOR_WRAPS == 0 { Ok(()) } else { Err(Outcome::Obstructed) }
}

impl Transmit for Ipv6Hdr {
    #[inline(always)]
    fn wrap(_: &Outgoing<'_, Self>, _: u32) -> Result<Carried, Outcome> {
        Err(Outcome::InnerIpv6)
    }

    /// The vxlan device reads the group from the packet's own mark.
    #[inline(always)]
    fn transmit(
        outgoing: &Outgoing<'_, Self>,
        front: &Front<Self>,
        way: &Way<V6>,
        now: u64,
    ) -> Result<Carried, Outcome> {
        let Outgoing { packet, inner, node, peer, .. } = *outgoing;
        let outer_len = fit::outer(packet, inner, way.mtu)?;
        way::check_again::<Self>(packet, outer_len, node.v6(), peer, now)?;
        front.headers.write(packet, 0)?;
        front.complete(packet, 0, Direction::Egress)?;
        Ok(deliver::through_overlay_device(node.v6()))
    }
}
