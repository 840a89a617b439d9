//! Egress of a pod-side bridge port: what the pod gets, after the host stack has let it through.

use flannel_common::flow::{Direction, Port};
use flannel_common::outcome::Outcome;

use crate::maps::{self, IpFamily};
use crate::packet::Packet;
use crate::stage::flow::FlowPacket;
use crate::stage::parse::{self, Frame, Inner};

/// One packet to a pod. It always goes on; what it proves is noted.
#[inline(always)]
pub fn run(packet: &Packet<'_>) -> Outcome {
    note(packet).unwrap_or_else(|outcome| outcome)
}

#[inline(always)]
fn note(packet: &Packet<'_>) -> Result<Outcome, Outcome> {
    if maps::node_config()?.flow_cache == 0 {
        return Err(Outcome::FlowCacheOff);
    }
    match parse::frame_at(packet, 0)? {
        Frame::V4(inner) => proof_by(packet, &inner),
        Frame::V6(inner) => proof_by(packet, &inner),
    }
}

#[inline(always)]
fn proof_by<H: IpFamily>(packet: &Packet<'_>, inner: &Inner<'_, H>) -> Result<Outcome, Outcome> {
    let step = FlowPacket::read(packet, inner, Direction::Ingress, 0)?;
    let here =
        Port { ifindex: packet.ifindex(), pod_mac: inner.frame.dst_addr, gateway_mac: inner.frame.src_addr };
    Ok(if step.note_exit(Some(&here)) { Outcome::FlowProven } else { Outcome::NoFlow })
}
