//! Ingress of a pod-side bridge port: what the pod sends, before the host stack has seen it.

use flannel_common::flow::{Direction, Port};
use flannel_common::lease::DIRECT;
use flannel_common::node::NodeConfig;
use flannel_common::outcome::Outcome;

use crate::maps;
use crate::packet::Packet;
use crate::stage::depart::{self, Depart};
use crate::stage::flow::FlowPacket;
use crate::stage::parse::{self, Frame, Inner};
use crate::stage::{route, tell};
use crate::verdict::Carried;

/// One packet from a pod: off to the peer if its flow is proven, else into the host stack.
#[inline(always)]
pub fn run(packet: &Packet<'_>) -> Result<Carried, Outcome> {
    let node = &maps::node_config()?;
    if node.flow_cache == 0 {
        return Err(Outcome::FlowCacheOff);
    }
    match parse::frame_at(packet, 0)? {
        Frame::V4(inner) => send(packet, &inner, node),
        Frame::V6(inner) => send(packet, &inner, node),
    }
}

#[inline(always)]
fn send<H: Depart>(packet: &Packet<'_>, inner: &Inner<'_, H>, node: &NodeConfig) -> Result<Carried, Outcome> {
    let lease = tell::peer_of(inner, node)?;
    if parse::mark(packet, node) != 0 {
        // Somebody marks packets before us, by what we do not know: the proof of one is none of the next.
        return Err(Outcome::NotCacheable);
    }
    let step = FlowPacket::read(packet, inner, Direction::Egress, 0)?;
    let here =
        Port { ifindex: packet.ifindex(), pod_mac: inner.frame.src_addr, gateway_mac: inner.frame.dst_addr };
    let flow = step.shortcut(Some(&here)).inspect_err(|_| step.note_entry(Some(&here)))?;
    // A flow of an agent that had group policy may have one still.
    let mark = if node.group_policy != 0 { flow.egress.mark } else { 0 };
    let routed = route::hop(inner, H::overlay_end(node).vtep_mac, lease.vtep_mac)?;
    let sent = if lease.flags & DIRECT != 0 {
        depart::on_link(packet, inner, routed, node, &lease)?
    } else {
        H::depart(packet, inner, Some(routed), node, &lease, mark)?
    };
    if node.group_policy != 0 {
        // As out of the kernel device, for whom the underlay's routes and queues tell apart by it; where that device
        // wraps the packet, it is what it reads the group from.
        packet.set_mark(mark);
    }
    Ok(sent)
}
