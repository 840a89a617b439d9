//! Path MTU to a peer over IPv6, where no router fragments packets (RFC 8200 section 5).
//!
//! The stack learns the path MTU from "packet too big", and sends the pod such an answer. Past the stack a pod would get
//! none, and its long packets would be lost until the flow's proof expires.

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_OUTPUT,
    bpf_fib_lookup as Query, bpf_fib_lookup__bindgen_ty_1 as Len, bpf_fib_lookup__bindgen_ty_3 as Source,
    bpf_fib_lookup__bindgen_ty_4 as Destination,
};
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use flannel_common::address::V6;
use flannel_common::lease::Lease;
use flannel_common::node::OverlayEnd;
use flannel_common::outcome::Outcome;
use network_types::ip::Ipv6Hdr;

use crate::ip::{Ip as _, UDP};
use crate::packet::{Packet, PacketAccess as _};

/// Smallest MTU of an IPv6 link, in bytes (RFC 8200 section 5).
const ANY_LINK: u32 = 1280;

/// Checks that an outer packet of this length fits the path to the peer, as far as the kernel knows it.
///
/// # Errors
/// [`Outcome::TooBig`], [`Outcome::NoPath`].
#[inline(always)]
pub fn check(
    packet: &Packet<'_>,
    len: u32,
    local: &OverlayEnd<V6>,
    lease: &Lease<V6>,
) -> Result<(), Outcome> {
    if len <= ANY_LINK {
        return Ok(());
    }
    // SAFETY: numbers, which all may be zero.
    let mut query: Query = unsafe { core::mem::zeroed() };
    query.family = Ipv6Hdr::ADDRESS_FAMILY;
    query.l4_protocol = UDP;
    query.ifindex = local.uplink_ifindex;
    query.__bindgen_anon_1 = Len { tot_len: len as u16 };
    query.__bindgen_anon_3 = Source { ipv6_src: words(local.local_ip) };
    query.__bindgen_anon_4 = Destination { ipv6_dst: words(lease.public_ip) };
    // SAFETY: the context is valid for the whole run, and the query for the call. (Linux 4.18. It compares `tot_len` with
    // the path MTU as of 5.12.)
    let found = unsafe {
        bpf_fib_lookup(
            packet.ctx().skb.skb.cast(),
            &raw mut query,
            size_of::<Query>() as i32,
            BPF_FIB_LOOKUP_OUTPUT,
        )
    };
    match found as u32 {
        // The kernel compares the length before it looks up the neighbour.
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH => Ok(()),
        BPF_FIB_LKUP_RET_FRAG_NEEDED => Err(Outcome::TooBig),
        _ => Err(Outcome::NoPath),
    }
}

#[inline(always)]
fn words(address: V6) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}
