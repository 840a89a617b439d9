//! How long a packet may be on its way to a peer over IPv6, where no router cuts it (RFC 8200 section 5).
//!
//! The stack learns of a shorter path from "packet too big", and has the pod told. Behind its back the kernel's device
//! would go on wrapping what is too long, until the flow's proof has ended.

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

/// Every IPv6 link takes this, in bytes (RFC 8200 section 5).
const ANY_LINK: u32 = 1280;

/// Whether an outer packet of this length reaches the peer in one piece, as far as is known.
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
    // SAFETY: plain numbers, of which all may be zero.
    let mut query: Query = unsafe { core::mem::zeroed() };
    query.family = Ipv6Hdr::ADDRESS_FAMILY;
    query.l4_protocol = UDP;
    query.ifindex = local.uplink_ifindex;
    query.__bindgen_anon_1 = Len { tot_len: len as u16 };
    query.__bindgen_anon_3 = Source { ipv6_src: words(local.local_ip) };
    query.__bindgen_anon_4 = Destination { ipv6_dst: words(lease.public_ip) };
    // SAFETY: the context is valid for the whole run, and the query for the call (Linux 4.18; that it compares `tot_len`
    // with what is known of the path: 5.12).
    let found = unsafe {
        bpf_fib_lookup(
            packet.ctx().skb.skb.cast(),
            &raw mut query,
            size_of::<Query>() as i32,
            BPF_FIB_LOOKUP_OUTPUT,
        )
    };
    match found as u32 {
        // The length is compared before the neighbour is looked for.
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
