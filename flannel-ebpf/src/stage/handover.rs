//! From XDP to TC: outer headers come off at the driver, so that GRO works on the inner frames; what they said goes along
//! as metadata.

use flannel_common::handover::Handover;
use flannel_common::node::NodeConfig;
use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;

use crate::maps::IpFamily;
use crate::packet::{DriverPacket, Packet, PacketAccess as _};
use crate::stage::decap::Wrapping;
use crate::stage::parse::Envelope;

/// Takes everything off in front of the inner frame at `offset`, and leaves word of it.
///
/// # Errors
/// [`Outcome::NoRoom`] with the packet as it was: word without a frame for our VTEP is nothing to [`take`].
#[inline(always)]
pub fn give<H: IpFamily>(
    packet: &DriverPacket<'_>,
    offset: usize,
    word: Handover<H::Address>,
) -> Result<(), Outcome> {
    packet.note(&word)?;
    packet.shrink(offset)
}

/// What the outer headers of this family have said, of a packet that comes without them; None for all others. The frame is
/// nobody's but local: who does not [`decap`](crate::stage::decap) it lets the host drop it.
#[inline(always)]
pub fn take<H: IpFamily>(packet: &Packet<'_>, node: &NodeConfig) -> Option<(Envelope<H::Address>, Wrapping)> {
    let word = *packet.note::<Handover<H::Address>>().filter(|word| word.is_signed_by(node))?;
    let frame: &EthHdr = packet.header(0).ok()?;
    if frame.dst_addr != H::overlay_end(node).vtep_mac {
        return None;
    }
    packet.forget_outer_frame();
    let envelope = Envelope { sender: word.sender, tos: word.tos, group: word.group };
    Some((envelope, if word.late == 0 { Wrapping::Gone } else { Wrapping::GoneLate }))
}
