//! Egress of a pod's bridge port: a packet to the pod, after the host stack.

use flannel_common::flow::Port;
use flannel_common::outcome::Outcome;

use crate::features::has_family;
use crate::maps::{self, IpFamily};
use crate::packet::Packet;
use crate::stage::flow::{self, ToPod};
use crate::stage::parse::{self, Inner, with_inner};

/// Handles one packet to a pod. It always goes on; the proof that it gives is noted.
#[inline(always)]
pub fn run(packet: &Packet<'_>) -> Outcome {
    note(packet).unwrap_or_else(|outcome| outcome)
}

#[inline(always)]
fn note(packet: &Packet<'_>) -> Result<Outcome, Outcome> {
    flow::node_config()?;
    with_inner!(parse::frame_at(packet, 0)?, inner => note_proof(packet, &inner))
}

#[inline(always)]
fn note_proof<H: IpFamily>(packet: &Packet<'_>, inner: &Inner<H>) -> Result<Outcome, Outcome> {
    if !has_family::<H::Address>() {
        return Err(Outcome::NoFlow);
    }
    if !maps::is_at_port(packet.ifindex(), inner.frame.destination()) {
        // A copy: the bridge does not know where the pod is, and sends it to all ports. That of the pod proves the flow.
        packet.take_token();
        return Err(Outcome::NoFlow);
    }
    let flow = ToPod::read(packet, inner, 0)?;
    let (pod_mac, gateway_mac) = (inner.frame.destination().into(), inner.frame.source().into());
    let here = Port { ifindex: packet.ifindex(), pod_mac, gateway_mac };
    Ok(flow.note_exit(packet, inner, Some(&here), |_| {}))
}
