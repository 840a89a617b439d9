//! Path MTU to a peer: what the kernel's routes say, and what it has learnt from ICMP.
//!
//! The stack cuts longer outer packets (IPv4), or tells the pod (IPv6, where no router cuts packets: RFC 8200 section 5). Past
//! the stack they would be lost on a path that does not cut them.

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_OUTPUT,
    bpf_fib_lookup as Query, bpf_fib_lookup__bindgen_ty_1 as Len,
};
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use flannel_common::address::{V4, V6};
use flannel_common::lease::Lease;
use flannel_common::outcome::Outcome;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::ip::{Ip, UDP};
use crate::maps::EndRef;
use crate::packet::{Packet, PacketAccess as _};

/// A family whose routes can be asked.
pub trait Route: Ip {
    /// Length in bytes that fits every path.
    const ANY_PATH: u32;
    /// What becomes of a packet if the kernel does not tell, since it has no route or does not forward from the uplink.
    const UNKNOWN: Result<(), Outcome>;

    /// Sets the ends of the path.
    fn set_ends(query: &mut Query, source: Self::Address, destination: Self::Address);
}

impl Route for Ipv4Hdr {
    /// The kernel takes no smaller MTU from ICMP (`net.ipv4.route.min_pmtu`).
    const ANY_PATH: u32 = 552;
    /// Routers cut outer packets, which have no "don't fragment".
    const UNKNOWN: Result<(), Outcome> = Ok(());

    #[inline(always)]
    fn set_ends(query: &mut Query, source: V4, destination: V4) {
        query.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(source);
        query.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(destination);
    }
}

impl Route for Ipv6Hdr {
    /// The smallest MTU of an IPv6 link (RFC 8200 section 5).
    const ANY_PATH: u32 = 1280;
    const UNKNOWN: Result<(), Outcome> = Err(Outcome::NoPath);

    #[inline(always)]
    fn set_ends(query: &mut Query, source: V6, destination: V6) {
        query.__bindgen_anon_3.ipv6_src = words(source);
        query.__bindgen_anon_4.ipv6_dst = words(destination);
    }
}

/// Checks that an outer packet of this length fits the path to the peer, as far as the kernel knows it. The MTU of the
/// route is in the lease: the look-up finds what was learnt, and leaves out an MTU of the route unless it is locked.
///
/// # Errors
/// [`Outcome::TooBig`], [`Outcome::NoPath`].
#[inline(always)]
pub fn check<H: Route>(
    packet: &Packet<'_>,
    len: u32,
    local: EndRef<H::Address>,
    lease: &Lease<H::Address>,
) -> Result<(), Outcome> {
    if lease.route_mtu != 0 && len > lease.route_mtu {
        return Err(Outcome::TooBig);
    }
    if len <= H::ANY_PATH {
        return Ok(());
    }
    // SAFETY: numbers, which all may be zero.
    let mut query: Query = unsafe { core::mem::zeroed() };
    query.family = H::ADDRESS_FAMILY;
    query.l4_protocol = UDP;
    query.ifindex = local.uplink_ifindex();
    query.__bindgen_anon_1 = Len { tot_len: len as u16 };
    H::set_ends(&mut query, local.local_ip(), lease.public_ip);
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
        _ => H::UNKNOWN,
    }
}

#[inline(always)]
fn words(address: V6) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}
