//! How packets leave for their node: BPF wraps IPv4, and the kernel's vxlan device wraps IPv6.

use flannel_common::address::{V4, V6};
use flannel_common::flow::Direction;
use flannel_common::node::FLOOR_WRAPS;
use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::ip::Ip as _;
use crate::maps::{FlowRef, IpFamily, NodeRef};
use crate::stage::flow::Shortcut;
use crate::stage::outgoing::Outgoing;
use crate::stage::route::Routed;
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
    pub fn transmit_on_link(&self, front: &Front<H>, flow: FlowRef<H::Address>) -> Result<Carried, Outcome> {
        let local = H::overlay_end(self.node);
        fit::mtu(self.packet, self.inner, flow.path_mtu())?;
        front.headers.write(self.packet)?;
        front.complete(self.packet, self.inner, 0, Direction::Egress)?;
        deliver::to_next_hop::<H>(self.packet, local, flow)
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
        known: &Shortcut<Self::Address>,
    ) -> Result<Carried, Outcome>;
}

impl Transmit for Ipv4Hdr {
    #[inline(always)]
    fn wrap(outgoing: &Outgoing<'_, Self>, route_mtu: u32) -> Result<Carried, Outcome> {
        let Outgoing { packet, inner, node, peer, .. } = *outgoing;
        ensure_unobstructed(node)?;
        let outer_len = fit::outer(packet, inner, node.v4().uplink_mtu())?;
        way::check::<Self>(packet, outer_len, node.v4(), peer, route_mtu)?;
        encap::push(outgoing, &Routed::unchanged(inner))?;
        Ok(deliver::to_uplink(node.v4()))
    }

    #[inline(always)]
    fn transmit(
        outgoing: &Outgoing<'_, Self>,
        front: &Front<Self>,
        known: &Shortcut<V4>,
    ) -> Result<Carried, Outcome> {
        let Outgoing { packet, inner, node, peer, .. } = *outgoing;
        ensure_unobstructed(node)?;
        let outer_len = fit::outer(packet, inner, known.flow.path_mtu())?;
        way::check_again::<Self>(packet, outer_len, node.v4(), peer, known.now)?;
        encap::push(outgoing, &front.headers)?;
        front.complete(packet, inner, EthHdr::LEN + Self::OUTER_LEN, Direction::Egress)?;
        deliver::to_next_hop::<Self>(packet, node.v4(), known.flow)
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
        known: &Shortcut<V6>,
    ) -> Result<Carried, Outcome> {
        let Outgoing { packet, inner, node, peer, .. } = *outgoing;
        let outer_len = fit::outer(packet, inner, known.flow.path_mtu())?;
        way::check_again::<Self>(packet, outer_len, node.v6(), peer, known.now)?;
        front.headers.write(packet)?;
        front.complete(packet, inner, 0, Direction::Egress)?;
        Ok(deliver::through_overlay_device(node.v6()))
    }
}
