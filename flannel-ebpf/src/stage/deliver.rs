//! Where a finished packet goes.

use aya_ebpf::bindings::BPF_F_INGRESS;
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer};
use flannel_common::address::Address;
use flannel_common::flow::{Direction, Port};
use flannel_common::node::{NodeConfig, OverlayEnd};
use flannel_common::outcome::Outcome;

use crate::ip::Ip;
use crate::maps::IpFamily;
use crate::packet::Packet;
use crate::stage::fit;
use crate::stage::flow::FlowPacket;
use crate::stage::parse::{self, Inner};
use crate::stage::route::{self, Routed};
use crate::verdict::Carried;

/// Out of the uplink: the kernel looks route and neighbour of the outer destination up and writes the
/// Ethernet header (`bpf_redirect_neigh`: Linux 5.10). Netfilter's output hooks are not passed.
#[inline(always)]
pub fn to_uplink(local: &OverlayEnd<impl Address>) -> Carried {
    // SAFETY: a helper call without pointers.
    let action = unsafe { bpf_redirect_neigh(local.uplink_ifindex, core::ptr::null_mut(), 0, 0) };
    Carried { outcome: Outcome::Encapsulated, action: action as i32 }
}

/// Out of the uplink to a neighbour there: the kernel looks its MAC up and writes the Ethernet header
/// (`bpf_redirect_neigh` with a next hop: Linux 5.10).
#[inline(always)]
pub fn to_neighbour<H: Ip>(local: &OverlayEnd<H::Address>, neighbour: H::Address) -> Carried {
    let mut next_hop = NextHop { family: H::ADDRESS_FAMILY.into(), address: [0; 16] };
    next_hop.address[..size_of::<H::Address>()].copy_from_slice(neighbour.as_ref());
    let next_hop = (&raw mut next_hop).cast();
    // SAFETY: the next hop is valid for the call.
    let action =
        unsafe { bpf_redirect_neigh(local.uplink_ifindex, next_hop, size_of::<NextHop>() as i32, 0) };
    Carried { outcome: Outcome::OnLink, action: action as i32 }
}

/// `struct bpf_redir_neigh` (linux/bpf.h), an address of either family at its beginning.
#[repr(C)]
struct NextHop {
    family: u32,
    address: [u8; 16],
}

/// Into the host stack as received on the vxlan device.
#[inline(always)]
pub fn to_overlay_device(local: &OverlayEnd<impl Address>) -> Carried {
    // SAFETY: a helper call without pointers.
    let action = unsafe { bpf_redirect(local.overlay_ifindex, BPF_F_INGRESS.into()) };
    Carried { outcome: Outcome::Decapsulated, action: action as i32 }
}

/// Out of the vxlan device, which wraps it: as the host stack would send it there.
#[inline(always)]
pub fn through_overlay_device(local: &OverlayEnd<impl Address>) -> Carried {
    // SAFETY: a helper call without pointers.
    let action = unsafe { bpf_redirect(local.overlay_ifindex, 0) };
    Carried { outcome: Outcome::Forwarded, action: action as i32 }
}

/// What a packet that skips the host stack looks like at its pod, and where that is.
///
/// # Errors
/// Why it has to go through the host stack.
#[inline(always)]
pub fn shortcut<F: IpFamily>(
    packet: &Packet<'_>,
    inner: &Inner<'_, F>,
    flow: &FlowPacket<F>,
) -> Result<(Routed<F>, Port), Outcome> {
    let port = flow.shortcut(None)?.port;
    // A port that is gone swallows what is sent there, and no agent may be there to forget its flows.
    let mtu = packet.mtu_of(port.ifindex).ok_or(Outcome::FlowNew)?;
    fit::mtu(packet, inner, mtu)?;
    Ok((route::hop(inner, port.gateway_mac, port.pod_mac)?, port))
}

/// A frame without a tunnel around it, from another node: to its pod if its flow is proven.
///
/// # Errors
/// Why it has to go through the host stack, where it is on its way to a proof.
#[inline(always)]
pub fn past_stack<F: IpFamily>(
    packet: &Packet<'_>,
    inner: &Inner<'_, F>,
    node: &NodeConfig,
) -> Result<Carried, Outcome> {
    let step = FlowPacket::read(packet, inner, Direction::Ingress, parse::mark(packet, node))?;
    let (routed, port) = shortcut(packet, inner, &step).inspect_err(|_| step.note_entry(None))?;
    let sum = inner.ip.sum_to(&routed.ip);
    packet.write(0, &routed)?;
    packet.add_to_sum(sum);
    if node.group_policy != 0 {
        // The kernel device has set it; at the end of the veth's cable it would be gone.
        packet.set_mark(0);
    }
    Ok(to_pod(port))
}

/// Into the pod, at the other end of its bridge port's cable (`bpf_redirect_peer`: Linux 5.10).
#[inline(always)]
pub fn to_pod(port: Port) -> Carried {
    // SAFETY: a helper call without pointers.
    let action = unsafe { bpf_redirect_peer(port.ifindex, 0) };
    Carried { outcome: Outcome::Delivered, action: action as i32 }
}
