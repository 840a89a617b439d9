//! From XDP to TC: outer headers come off at the driver, so that GRO works on the inner frames; whose packet it was goes
//! along as metadata.

use flannel_common::handover::Handover;
use flannel_common::node::Node;
use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;

use crate::packet::{DriverPacket, Packet, PacketAccess as _};

/// Takes everything off in front of the inner frame at `offset`, and leaves word of it.
///
/// # Errors
/// [`Outcome::NoRoom`] with the packet as it was: word without a frame for our VTEP is nothing to [`take`].
#[inline(always)]
pub fn give(packet: &DriverPacket<'_>, offset: usize, word: Handover) -> Result<(), Outcome> {
    packet.note(&word)?;
    packet.shrink(offset)
}

/// The outer source of a packet that comes without its outer headers; None for all others.
///
/// # Errors
/// [`Outcome::WriteFailed`] with the packet lost.
#[inline(always)]
pub fn take(packet: &Packet<'_>, node: &Node) -> Result<Option<[u8; 4]>, Outcome> {
    let Some(word) = packet.note::<Handover>().filter(|word| word.is_signed_by(node)) else {
        return Ok(None);
    };
    if !packet.header::<EthHdr>(0).is_ok_and(|frame| frame.dst_addr == node.vtep_mac) {
        return Ok(None);
    }
    let Handover { source, late, .. } = *word;
    packet.receive();
    if late[0] != 0 {
        packet.forget_checksum()?;
    }
    Ok(Some(source))
}
