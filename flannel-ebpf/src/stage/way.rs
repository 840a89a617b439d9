//! The path to a peer: next hop and MTU, by the kernel's routes and what it has learnt from ICMP.
//!
//! The stack cuts longer outer packets (IPv4), or tells the pod (IPv6, where no router cuts packets: RFC 8200 section 5). Past
//! the stack they would be lost on a path that does not cut them. The kernel is asked for each packet that comes out of the stack,
//! and for those past the stack when their flow is proven, and for as long after an ICMP message as older proofs hold.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_OUTPUT,
    bpf_fib_lookup as Query, bpf_fib_lookup__bindgen_ty_1 as Len,
};
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use flannel_common::address::{V4, V6};
use flannel_common::flow::{PROOF_NS, TUNNEL};
use flannel_common::lease::{DIRECT, Lease};
use flannel_common::outcome::Outcome;
use network_types::eth::EthHdr;
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::clock;
use crate::ip::{Ip, UDP};
use crate::maps::{self, EndRef, FlowRef, IpFamily, NodeRef};
use crate::packet::{Aligned, Context, Packet, PacketAccess as _};
use crate::stage::parse;

/// A family whose routes can be asked.
pub trait Route: Ip {
    /// Length in bytes that fits every path.
    const ANY_PATH: u32;
    /// What becomes of a packet if the kernel does not tell, since it has no route or does not forward from the uplink.
    const UNKNOWN: Result<(), Outcome>;

    /// The first two bytes of an ICMP message that a packet was too big, and which of their bits count.
    const TOO_BIG: ([u8; 2], [u8; 2]);

    /// Sets the ends of the path.
    fn set_ends(query: &mut Query, source: Self::Address, destination: Self::Address);

    /// Returns the next hop that the kernel has found.
    fn next_hop(query: &Query) -> Self::Address;
}

impl Route for Ipv4Hdr {
    /// The kernel takes no smaller MTU from ICMP (`net.ipv4.route.min_pmtu`).
    const ANY_PATH: u32 = 552;
    /// Routers cut outer packets, which have no "don't fragment".
    const UNKNOWN: Result<(), Outcome> = Ok(());
    /// Type 3, code 4 (RFC 1191 section 4).
    const TOO_BIG: ([u8; 2], [u8; 2]) = ([3, 4], [0xff, 0xff]);

    #[inline(always)]
    fn set_ends(query: &mut Query, source: V4, destination: V4) {
        query.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(source);
        query.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(destination);
    }

    #[inline(always)]
    fn next_hop(query: &Query) -> V4 {
        // SAFETY: every value is valid.
        unsafe { query.__bindgen_anon_4.ipv4_dst }.to_ne_bytes()
    }
}

impl Route for Ipv6Hdr {
    /// The smallest MTU of an IPv6 link (RFC 8200 section 5).
    const ANY_PATH: u32 = 1280;
    const UNKNOWN: Result<(), Outcome> = Err(Outcome::NoPath);
    /// Type 2 (RFC 4443 section 3.2).
    const TOO_BIG: ([u8; 2], [u8; 2]) = ([2, 0], [0xff, 0]);

    #[inline(always)]
    fn set_ends(query: &mut Query, source: V6, destination: V6) {
        query.__bindgen_anon_3.ipv6_src = words(source);
        query.__bindgen_anon_4.ipv6_dst = words(destination);
    }

    #[inline(always)]
    fn next_hop(query: &Query) -> V6 {
        // SAFETY: every value is valid.
        bytes(unsafe { query.__bindgen_anon_4.ipv6_dst })
    }
}

/// Checks that an outer packet of this length fits the path to the peer, as far as the kernel knows it. The MTU of the
/// route, which the lease has, is given: the look-up finds what was learnt, and leaves out an MTU of the route unless it is locked.
///
/// # Errors
/// [`Outcome::TooBig`], [`Outcome::NoPath`].
#[inline(always)]
pub fn check<H: Route>(
    packet: &Packet<'_>,
    len: u32,
    local: EndRef<H::Address>,
    peer: H::Address,
    route_mtu: u32,
) -> Result<(), Outcome> {
    if route_mtu != 0 && len > route_mtu {
        Err(Outcome::TooBig)
    } else {
        ask_whether_fits::<H>(packet, len, local, peer)
    }
}

#[inline(always)]
fn ask_whether_fits<H: Route>(
    packet: &Packet<'_>,
    len: u32,
    local: EndRef<H::Address>,
    peer: H::Address,
) -> Result<(), Outcome> {
    if len <= H::ANY_PATH {
        return Ok(());
    }
    let mut query = MaybeUninit::uninit();
    let query = clear(&mut query);
    match ask::<H>(packet, query, local, (local.local_ip(), peer), len as u16) {
        // The kernel compares the length before it looks up the neighbour.
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH => Ok(()),
        BPF_FIB_LKUP_RET_FRAG_NEEDED => Err(Outcome::TooBig),
        _ => H::UNKNOWN,
    }
}

/// Checks the same of a packet past the stack, whose flow's [`Way`](flannel_common::flow::Way) it fits, if the path may have
/// changed since.
///
/// # Errors
/// As for [`check`].
#[inline(always)]
pub fn check_again<H: Route>(
    packet: &Packet<'_>,
    len: u32,
    local: EndRef<H::Address>,
    peer: H::Address,
    now: u64,
) -> Result<(), Outcome> {
    if len <= H::ANY_PATH {
        return Ok(());
    }
    let last = maps::last_too_big();
    if last == 0 || now.wrapping_sub(last) > PROOF_NS {
        return Ok(());
    }
    ask_whether_fits::<H>(packet, len, local, peer)
}

/// Asks the kernel for the way through the tunnel to the peer, and notes it in the flow's entry: the stack has sent a packet of the flow
/// there, whatever the lease says, which may be of a moment before or after.
///
/// Not inlined: programs ask seldom, and what the kernel is asked with takes an eighth of the stack.
#[inline(never)]
pub fn note<H: IpFamily + Route>(
    context: Context,
    node: NodeRef,
    lease: &Lease<H::Address>,
    flow: FlowRef<H::Address>,
) {
    let context = context.into();
    let (packet, local) = (&Packet::new(&context), H::overlay_end(node));
    let mut query = MaybeUninit::uninit();
    let query = clear(&mut query);
    // No path takes such a packet, and the kernel says what it takes (Linux 5.12).
    let ends = (local.local_ip(), lease.public_ip);
    let found = ask::<H>(packet, query, local, ends, u16::MAX);
    flow.set_peer(lease, TUNNEL, mtu::<H>(found, query, local.uplink_mtu(), lease.route_mtu));
    let found = ask::<H>(packet, query, local, ends, 0);
    if found == BPF_FIB_LKUP_RET_SUCCESS && query.ifindex == local.uplink_ifindex() {
        flow.set_next_hop(H::next_hop(query), query.dmac, query.smac);
    } else {
        flow.set_next_hop(H::Address::default(), [0; 6], [0; 6]);
    }
}

/// Notes in the flow's entry how its packets reach the peer without a tunnel: as this one does, which leaves the uplink. The next hop is the
/// one that the stack has chosen, by whatever rule: the peer, or a router that knows where its pods are.
///
/// Not inlined: see [`note`].
#[inline(never)]
pub fn note_direct<H: IpFamily + Route>(
    context: Context,
    node: NodeRef,
    lease: &Lease<H::Address>,
    flow: FlowRef<H::Address>,
) {
    let context = context.into();
    let (packet, local) = (&Packet::new(&context), H::overlay_end(node));
    let Ok(inner) = parse::inner_at::<H>(packet, 0) else { return };
    let mut query = MaybeUninit::uninit();
    let query = clear(&mut query);
    let found = ask::<H>(packet, query, local, (inner.ip.source(), inner.ip.destination()), u16::MAX);
    flow.set_next_hop(H::Address::default(), inner.frame.destination().into(), inner.frame.source().into());
    flow.set_peer(lease, DIRECT, mtu::<H>(found, query, local.uplink_mtu(), lease.route_mtu));
}

/// Returns the MTU of the path in bytes, as far as it is known: the smallest of those of the uplink, of the route (0: none), and of what
/// the kernel has learnt.
#[inline(always)]
fn mtu<H: Route>(found: u32, query: &Query, uplink: u32, route: u32) -> u32 {
    let route = if route == 0 || route > uplink { uplink } else { route };
    let has_path = matches!(found, BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH);
    let learnt = match found {
        // SAFETY: every value is valid.
        BPF_FIB_LKUP_RET_FRAG_NEEDED => unsafe { query.__bindgen_anon_1.mtu_result }.into(),
        _ if has_path || H::UNKNOWN.is_ok() => route,
        _ => H::ANY_PATH,
    };
    if learnt < route { learnt } else { route }
}

/// Clears a question, in place and without a call of `memset`: both would need more of the stack.
#[inline(always)]
fn clear(query: &mut MaybeUninit<Query>) -> &mut Query {
    for word in 0..size_of::<Query>() / size_of::<u32>() {
        // SAFETY: within the question, which has this alignment.
        unsafe { query.as_mut_ptr().cast::<u32>().add(word).write_volatile(0) };
    }
    // SAFETY: numbers, which all may be zero.
    unsafe { query.assume_init_mut() }
}

/// Asks the kernel for the path of packets from one address to another (`bpf_fib_lookup`: Linux 4.18). `query` gets what it answers. `len`: the length of one in
/// bytes, which the kernel compares with the path MTU (Linux 5.12); 0: it does not.
#[inline(always)]
fn ask<H: Route>(
    packet: &Packet<'_>,
    query: &mut Query,
    local: EndRef<H::Address>,
    (source, destination): (H::Address, H::Address),
    len: u16,
) -> u32 {
    query.family = H::ADDRESS_FAMILY;
    query.l4_protocol = UDP;
    query.ifindex = local.uplink_ifindex();
    query.__bindgen_anon_1 = Len { tot_len: len };
    // What it has answered before.
    query.__bindgen_anon_2.rt_metric = 0;
    H::set_ends(query, source, destination);
    let skb = packet.ctx().skb.skb.cast();
    // SAFETY: the context is valid for the whole run, and the query for the call.
    unsafe { bpf_fib_lookup(skb, query, size_of::<Query>() as i32, BPF_FIB_LOOKUP_OUTPUT) as u32 }
}

/// Notes it if a received packet says that one was too big for its path. The kernel checks whether that may be true; if not, it is
/// asked more often than it has to be. The same goes for interfaces without Ethernet headers, where this reads something else.
#[inline(always)]
pub fn note_too_big<H: Route>(packet: &Packet<'_>) {
    let (expected, mask) = H::TOO_BIG;
    if let Ok(outer) = packet.header::<H>(EthHdr::LEN)
        && outer.protocol() == H::ICMP
        && let Ok(Aligned([kind, code])) = packet.header::<[u8; 2]>(EthHdr::LEN + outer.header_len())
        && [kind & mask[0], code & mask[1]] == expected
    {
        maps::note_too_big(clock::now());
    }
}

#[inline(always)]
fn words(address: V6) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}

#[inline(always)]
fn bytes(words: [u32; 4]) -> V6 {
    // SAFETY: both are 16 bytes, of which each may have any value.
    unsafe { core::mem::transmute(words) }
}
