//! Ingress of a pod's bridge port: a packet from the pod, before the host stack.

use flannel_common::fingerprint::Token;
use flannel_common::flow::{Direction, Port};
use flannel_common::node::FEATURE_DIRECT_ROUTING;
use flannel_common::outcome::Outcome;

use crate::features::{has, has_family};
use crate::maps::{IpFamily, NodeRef};
use crate::packet::{Ethernet, Packet};
use crate::stage::flow::{self, FromPod, Shortcut};
use crate::stage::outgoing::Outgoing;
use crate::stage::parse::{self, Inner, with_inner};
use crate::stage::translate::Front;
use crate::stage::transmit::Transmit;
use crate::stage::{report, route};
use crate::verdict::Carried;

/// Handles one packet from a pod: to the peer if its flow is proven, else into the host stack.
#[inline(always)]
pub fn run(packet: &Packet<'_>) -> Result<Carried, Outcome> {
    let node = flow::node_config()?;
    with_inner!(parse::frame_at(packet, 0)?, inner => send(packet, &inner, node))
}

#[inline(always)]
fn send<H: Transmit>(packet: &Packet<'_>, inner: &Inner<H>, node: NodeRef) -> Result<Carried, Outcome> {
    if !has_family::<H::Address>() {
        return Err(Outcome::NoLease);
    }
    let known = match known(packet, inner, node) {
        Ok(known) => known,
        // The destination says more of a flow that is not known. It may be a service's.
        Err(reason @ (Outcome::FlowStale | Outcome::FlowChanged)) => return Err(reason),
        Err(reason) => return report::peer_of(inner, node).and(Err(reason)),
    };
    // The entry may still have a mark from an agent with group policy.
    let mark = if node.group_policy() != 0 { known.flow.passage(Direction::Egress).mark } else { 0 };
    // If it is too big, say, the stack gets it after all.
    let sent = skip_stack(&Outgoing { packet, inner, node, peer: known.flow.peer(), mark }, &known)
        .inspect_err(|_| packet.set_token(Token::UNKNOWN))?;
    if node.group_policy() != 0 {
        // As the stack would send it: routes and queues of the underlay may depend on the mark, and the vxlan device reads
        // the group from it.
        packet.set_mark(mark);
    }
    Ok(sent)
}

/// Returns how the packet may skip the host stack. If it may not, its entry is noted.
#[inline(always)]
fn known<H: IpFamily>(
    packet: &Packet<'_>,
    inner: &Inner<H>,
    node: NodeRef,
) -> Result<Shortcut<H::Address>, Outcome> {
    if parse::mark(packet, node) != 0 {
        // Another program marks packets before this one, by rules of its own: one proves nothing for the next.
        return Err(Outcome::NotCacheable);
    }
    let flow = FromPod::read(packet, inner, 0)?;
    let known = flow.shortcut(node, Some((packet.ifindex(), &inner.frame)));
    if known.is_err() {
        let (pod_mac, gateway_mac) = (inner.frame.source().into(), inner.frame.destination().into());
        let here = Port { ifindex: packet.ifindex(), pod_mac, gateway_mac };
        flow.note_entry(packet, inner, node, Some(&here));
    }
    known
}

#[inline(always)]
fn skip_stack<H: Transmit>(
    outgoing: &Outgoing<'_, H>,
    known: &Shortcut<H::Address>,
) -> Result<Carried, Outcome> {
    let Outgoing { inner, node, .. } = *outgoing;
    let frame = Ethernet::new(known.flow.vtep_mac(), H::overlay_end(node).vtep_mac(), H::ETHER_TYPE);
    let front = Front::new(route::hop(inner, frame)?, known.translation());
    if has(FEATURE_DIRECT_ROUTING) && known.flow.is_direct() {
        outgoing.transmit_on_link(&front, known.flow)
    } else {
        H::transmit(outgoing, &front, known)
    }
}
