//! Ingress of a pod-side bridge port: what the pod sends, before the host stack has seen it.

use flannel_common::flow::Port;
use flannel_common::outcome::Outcome;

use crate::maps;
use crate::packet::Packet;
use crate::stage::flow::{Direction, Step};
use crate::stage::{deliver, encap, fit, parse, route};
use crate::verdict::Carried;

/// One packet from a pod: wrapped and off to the peer if its flow is proven, else into the host stack.
#[inline(always)]
pub fn run(packet: &Packet<'_>) -> Result<Carried, Outcome> {
    let node = maps::node()?;
    if node.flow_cache == 0 {
        return Err(Outcome::FlowCacheOff);
    }
    let inner = parse::inner_at(packet, 0)?;
    let lease = maps::peer(inner.ip.dst_addr)?;
    if parse::mark(packet, node) != 0 {
        // Somebody marks packets before us, by what we do not know: the proof of one is none of the next.
        return Err(Outcome::NotCacheable);
    }
    let step = Step::of(packet, &inner, Direction::Egress, 0)?;
    let here =
        Port { ifindex: packet.ifindex(), pod_mac: inner.frame.src_addr, gateway_mac: inner.frame.dst_addr };
    let flow = step.shortcut(Some(&here)).inspect_err(|_| step.enters(Some(&here)))?;
    // A flow of an agent that had group policy may have one still.
    let mark = if node.group_policy != 0 { flow.egress.mark } else { 0 };
    let routed = route::hop(&inner, node.vtep_mac, lease.vtep_mac)?;
    fit::uplink(packet, &inner, node)?;
    encap::push(packet, routed, inner.ip.tos, node, lease, mark)?;
    if node.group_policy != 0 {
        // As out of the kernel device, for whom the underlay's routes and queues tell apart by it.
        packet.set_mark(mark);
    }
    Ok(deliver::to_uplink(node))
}
