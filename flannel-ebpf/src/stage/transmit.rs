//! How packets leave for their node: BPF wraps IPv4, and the kernel's vxlan device wraps IPv6.

use flannel_common::node::FLOOR_WRAPS;
use flannel_common::outcome::Outcome;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::maps::IpFamily;
use crate::stage::outgoing::Outgoing;
use crate::stage::route::Routed;
use crate::stage::{deliver, encap, fit, path_mtu};
use crate::verdict::Carried;

impl<H: IpFamily> Outgoing<'_, H> {
    /// Sends a packet that skips the stack, with these headers, to a peer on the uplink's link. It needs no tunnel.
    ///
    /// # Errors
    /// Why the host stack has to carry it.
    #[inline(always)]
    pub fn transmit_on_link(&self, routed: Routed<H>) -> Result<Carried, Outcome> {
        let local = H::overlay_end(self.node);
        fit::mtu(self.packet, self.inner, local.uplink_mtu)?;
        self.packet.write(0, &routed)?;
        Ok(deliver::to_neighbour::<H>(local, self.lease.public_ip))
    }
}

/// A family's way through the tunnel.
pub trait Transmit: IpFamily {
    /// Sends a packet to its peer. `routed`: its headers after the hop, if it skips the stack; `None` if the host stack has
    /// routed it into the vxlan device.
    ///
    /// # Errors
    /// Why the kernel's vxlan device has to wrap it, or the host stack has to carry it.
    fn transmit(outgoing: &Outgoing<'_, Self>, routed: Option<Routed<Self>>) -> Result<Carried, Outcome>;
}

impl Transmit for Ipv4Hdr {
    #[inline(always)]
    fn transmit(outgoing: &Outgoing<'_, Self>, routed: Option<Routed<Self>>) -> Result<Carried, Outcome> {
        let Outgoing { packet, inner, node, ref lease, .. } = *outgoing;
        if node.floor & FLOOR_WRAPS != 0 {
            return Err(Outcome::Obstructed);
        }
        let outer_len = fit::uplink(packet, inner, &node.v4)?;
        path_mtu::check::<Self>(packet, outer_len, &node.v4, lease)?;
        match routed {
            Some(routed) => encap::push(outgoing, routed)?,
            None => encap::push(outgoing, *inner.frame)?,
        }
        Ok(deliver::to_uplink(&node.v4))
    }
}

impl Transmit for Ipv6Hdr {
    /// The vxlan device reads the group from the packet's own mark.
    #[inline(always)]
    fn transmit(outgoing: &Outgoing<'_, Self>, routed: Option<Routed<Self>>) -> Result<Carried, Outcome> {
        let Outgoing { packet, inner, node, lease, .. } = outgoing;
        let routed = routed.ok_or(Outcome::InnerIpv6)?;
        let outer_len = fit::uplink(packet, inner, &node.v6)?;
        path_mtu::check::<Self>(packet, outer_len, &node.v6, lease)?;
        packet.write(0, &routed)?;
        Ok(deliver::through_overlay_device(&node.v6))
    }
}
