//! From XDP to TC: the outer headers are removed in the driver, so that GRO works on inner frames. What they said goes along
//! as metadata.

use flannel_common::handover::Handover;
use flannel_common::node::FEATURE_XDP;
use flannel_common::outcome::Outcome;

use crate::features::has;
use crate::maps::{self, IpFamily, NodeRef};
use crate::packet::{DriverPacket, Packet, PacketAccess as _};
use crate::stage::decap::OuterHeaders;
use crate::stage::parse::OuterFields;

/// Removes everything in front of the inner frame at `offset`, and writes the metadata.
///
/// # Errors
/// [`Outcome::NoRoom`] with the packet as it was. Metadata may be written then, but [`take`] ignores it, since the frame is
/// not addressed to the vxlan device.
#[inline(always)]
pub fn give<H: IpFamily>(
    packet: &DriverPacket<'_>,
    offset: usize,
    metadata: Handover<H::Address>,
) -> Result<(), Outcome> {
    packet.write_metadata(&metadata)?;
    packet.shrink(offset)
}

/// Returns whether a packet without metadata that [`take`] accepts is one whose outer headers were removed: it is addressed to the vxlan
/// device.
#[inline(always)]
pub fn is_lost<H: IpFamily>(packet: &Packet<'_>) -> bool {
    has(FEATURE_XDP) && maps::node_config().is_ok_and(|node| is_for_device::<H>(packet, node))
}

#[inline(always)]
fn is_for_device<H: IpFamily>(packet: &Packet<'_>, node: NodeRef) -> bool {
    packet.ethernet(0).is_ok_and(|frame| frame.destination() == H::overlay_end(node).vtep_mac())
}

/// Returns what the outer headers of this family said, for a packet that comes without them; `None` for others.
///
/// The caller has to [`pop`](crate::stage::decap::pop) it or drop it: the frame is addressed to the vxlan device, and the
/// host drops it on the uplink.
#[inline(always)]
pub fn take<H: IpFamily>(
    packet: &Packet<'_>,
    node: NodeRef,
) -> Option<(OuterFields<H::Address>, OuterHeaders)> {
    let metadata =
        *packet.metadata::<Handover<H::Address>>().filter(|found| found.is_signed_by(node.handover_key()))?;
    if !is_for_device::<H>(packet, node) {
        return None;
    }
    packet.clear_outer_frame();
    let Handover { sender, tos, group, late, .. } = metadata;
    let outer = if late == 0 { OuterHeaders::RemovedByDriver } else { OuterHeaders::RemovedByStack };
    Some((OuterFields { sender, tos, group }, outer))
}
