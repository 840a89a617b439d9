//! Ingress of other interfaces than the uplink. VXLAN may come in there as well, since the kernel's socket listens
//! everywhere. The kernel's vxlan device unwraps it.

use flannel_common::outcome::Outcome;

use crate::maps::IpFamily;
use crate::packet::Packet;
use crate::stage::find_udp::FindUdp;
use crate::stage::parse::by_family;
use crate::stage::sender;
use crate::stage::way::{self, Route};

/// Handles one packet. It always goes on; if its sender is accepted, that is noted.
#[inline(always)]
pub fn run(packet: &Packet<'_>) -> Outcome {
    sender::refuse_note(packet);
    by_family!(packet, H => note::<H>(packet), else Outcome::NotVxlan)
}

#[inline(always)]
fn note<H: IpFamily + FindUdp + Route>(packet: &Packet<'_>) -> Outcome {
    way::note_too_big::<H>(packet);
    sender::note_stray::<H>(packet)
}
