//! Sends finished packets on.

use aya_ebpf::bindings::BPF_F_INGRESS;
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer};
use flannel_common::address::Address;
use flannel_common::flow::Direction;
use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;

use crate::ip::Ip;
use crate::maps::{EndRef, FlowRef, IpFamily, NodeRef};
use crate::packet::{Ethernet, Mac, Packet};
use crate::stage::fit;
use crate::stage::flow::{Shortcut, ToPod};
use crate::stage::parse::{self, Inner};
use crate::stage::route;
use crate::stage::translate::Front;
use crate::verdict::Carried;

/// Sends a wrapped packet out of the uplink. The kernel looks up route and neighbour of the outer destination and writes
/// the Ethernet header (`bpf_redirect_neigh`: Linux 5.10). The packet skips netfilter's output hooks.
#[inline(always)]
pub fn to_uplink(local: EndRef<impl Address>) -> Carried {
    // SAFETY: a helper call without pointers.
    let action = unsafe { bpf_redirect_neigh(local.uplink_ifindex(), core::ptr::null_mut(), 0, 0) };
    Carried { outcome: Outcome::Encapsulated, action: action as i32 }
}

/// Sends a packet to a peer on its flow's way, with the MACs that the kernel knew when the flow was proven. If it knew none, as may be
/// with a tunnel, it is asked.
///
/// # Errors
/// [`Outcome::WriteFailed`]
#[inline(always)]
pub fn to_next_hop<H: Ip>(
    packet: &Packet<'_>,
    local: EndRef<H::Address>,
    flow: FlowRef<H::Address>,
) -> Result<Carried, Outcome> {
    let direct = flow.is_direct();
    // The outer header is of the same family.
    let frame = Ethernet { macs: flow.macs_to_next_hop(), ether_type: H::ETHER_TYPE };
    if !direct && frame.destination() == Mac::from([0; 6]) {
        return Ok(to_uplink(local));
    }
    packet.first_bytes(EthHdr::LEN)?.write_ethernet(0, &frame)?;
    // SAFETY: a helper call without pointers.
    let action = unsafe { bpf_redirect(local.uplink_ifindex(), 0) };
    let outcome = if direct { Outcome::OnLink } else { Outcome::Encapsulated };
    Ok(Carried { outcome, action: action as i32 })
}

/// Sends an unwrapped packet into the host stack, as received on the vxlan device.
#[inline(always)]
pub fn to_overlay_device(local: EndRef<impl Address>) -> Carried {
    // SAFETY: a helper call without pointers.
    let action = unsafe { bpf_redirect(local.overlay_ifindex(), BPF_F_INGRESS.into()) };
    Carried { outcome: Outcome::Decapsulated, action: action as i32 }
}

/// Sends a packet out of the vxlan device, which wraps it.
#[inline(always)]
pub fn through_overlay_device(local: EndRef<impl Address>) -> Carried {
    // SAFETY: a helper call without pointers.
    let action = unsafe { bpf_redirect(local.overlay_ifindex(), 0) };
    Carried { outcome: Outcome::Forwarded, action: action as i32 }
}

/// Returns the headers with which a packet of a proven flow reaches its pod past the host stack.
///
/// # Errors
/// Why it has to go through the host stack.
#[inline(always)]
pub fn front<F: IpFamily>(
    packet: &Packet<'_>,
    inner: &Inner<F>,
    known: &Shortcut<F::Address>,
) -> Result<Front<F>, Outcome> {
    fit::mtu(packet, inner, known.port_mtu(packet).ok_or(Outcome::FlowNew)?)?;
    let frame = Ethernet { macs: known.flow.macs_to_pod(), ether_type: F::ETHER_TYPE };
    Ok(Front::new(route::hop(inner, frame)?, known.translation()))
}

/// Sends a frame without outer headers, from another node, to its pod if its flow is proven.
///
/// # Errors
/// Why it has to go through the host stack. Its entry is noted.
#[inline(always)]
pub fn past_stack<F: IpFamily>(
    packet: &Packet<'_>,
    inner: &Inner<F>,
    node: NodeRef,
) -> Result<Carried, Outcome> {
    let flow = ToPod::read(packet, inner, parse::mark(packet, node))?;
    let known = flow.shortcut(node, None);
    let front = match &known {
        Ok(known) => front(packet, inner, known),
        Err(reason) => Err(*reason),
    };
    if front.is_err() {
        flow.note_entry(packet, inner, node, None);
    }
    let (front, flow) = (front?, known?.flow);
    front.headers.write(packet)?;
    packet.update_checksum(front.headers.checksum_change(inner));
    front.complete(packet, inner, 0, Direction::Ingress)?;
    if node.group_policy() != 0 {
        // The vxlan device has set it. Through the stack, the packet would lose it at the veth.
        packet.set_mark(0);
    }
    Ok(to_pod(flow))
}

/// Sends a packet into the flow's pod, through the other end of its bridge port (`bpf_redirect_peer`: Linux 5.10).
#[inline(always)]
pub fn to_pod(flow: FlowRef<impl Address>) -> Carried {
    // SAFETY: a helper call without pointers.
    let action = unsafe { bpf_redirect_peer(flow.port_ifindex(), 0) };
    Carried { outcome: Outcome::Delivered, action: action as i32 }
}
