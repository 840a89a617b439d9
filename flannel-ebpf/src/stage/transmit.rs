//! How packets leave for their node: BPF wraps IPv4, and the kernel's vxlan device wraps IPv6.

use flannel_common::flow::Direction;
use flannel_common::node::FLOOR_WRAPS;
use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::ip::Ip as _;
use crate::maps::IpFamily;
use crate::stage::outgoing::Outgoing;
use crate::stage::translate::Front;
use crate::stage::{deliver, encap, fit, path_mtu};
use crate::verdict::Carried;

impl<H: IpFamily> Outgoing<'_, H> {
    /// Sends a packet that skips the stack, with these headers, to a peer on the uplink's link. It needs no tunnel.
    ///
    /// # Errors
    /// Why the host stack has to carry it.
    #[inline(always)]
    pub fn transmit_on_link(&self, front: &Front<H>) -> Result<Carried, Outcome> {
        let local = H::overlay_end(self.node);
        fit::mtu(self.packet, self.inner, local.uplink_mtu())?;
        self.packet.write(0, &front.headers)?;
        front.complete(self.packet, 0, Direction::Egress)?;
        Ok(deliver::to_neighbour::<H>(local, self.lease.public_ip))
    }
}

/// A family's way through the tunnel.
pub trait Transmit: IpFamily {
    /// Sends a packet to its peer. `front`: the headers that it gets if it skips the stack; `None` if the host stack has routed it
    /// into the vxlan device.
    ///
    /// # Errors
    /// Why the kernel's vxlan device has to wrap it, or the host stack has to carry it.
    fn transmit(outgoing: &Outgoing<'_, Self>, front: Option<&Front<Self>>) -> Result<Carried, Outcome>;
}

impl Transmit for Ipv4Hdr {
    #[inline(always)]
    fn transmit(outgoing: &Outgoing<'_, Self>, front: Option<&Front<Self>>) -> Result<Carried, Outcome> {
        let Outgoing { packet, inner, node, ref lease, .. } = *outgoing;
        if node.floor() & FLOOR_WRAPS != 0 {
            return Err(Outcome::Obstructed);
        }
        let outer_len = fit::uplink(packet, inner, node.v4())?;
        path_mtu::check::<Self>(packet, outer_len, node.v4(), lease)?;
        match front {
            Some(front) => {
                encap::push(outgoing, front.headers)?;
                front.complete(packet, EthHdr::LEN + Self::OUTER_LEN, Direction::Egress)?;
            }
            None => encap::push(outgoing, inner.frame)?,
        }
        Ok(deliver::to_uplink(node.v4()))
    }
}

impl Transmit for Ipv6Hdr {
    /// The vxlan device reads the group from the packet's own mark.
    #[inline(always)]
    fn transmit(outgoing: &Outgoing<'_, Self>, front: Option<&Front<Self>>) -> Result<Carried, Outcome> {
        let Outgoing { packet, inner, node, lease, .. } = outgoing;
        let front = front.ok_or(Outcome::InnerIpv6)?;
        let outer_len = fit::uplink(packet, inner, node.v6())?;
        path_mtu::check::<Self>(packet, outer_len, node.v6(), lease)?;
        packet.write(0, &front.headers)?;
        front.complete(packet, 0, Direction::Egress)?;
        Ok(deliver::through_overlay_device(node.v6()))
    }
}
