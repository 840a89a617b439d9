//! Where a finished packet goes.

use aya_ebpf::bindings::BPF_F_INGRESS;
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_redirect_neigh};
use flannel_common::node::Node;
use flannel_common::outcome::Outcome;

use crate::verdict::Carried;

/// Out of the uplink: the kernel looks route and neighbour of the outer destination up and writes the
/// Ethernet header (`bpf_redirect_neigh`: Linux 5.10). Netfilter's output hooks are not passed.
#[inline(always)]
pub fn to_uplink(node: &Node) -> Carried {
    // SAFETY: a helper call without pointers.
    let action = unsafe { bpf_redirect_neigh(node.uplink_ifindex, core::ptr::null_mut(), 0, 0) };
    Carried { outcome: Outcome::Encapsulated, action: action as i32 }
}

/// Into the host stack as received on `flannel.<VNI>`.
#[inline(always)]
pub fn to_overlay_device(node: &Node) -> Carried {
    // SAFETY: a helper call without pointers.
    let action = unsafe { bpf_redirect(node.overlay_ifindex, BPF_F_INGRESS.into()) };
    Carried { outcome: Outcome::Decapsulated, action: action as i32 }
}
