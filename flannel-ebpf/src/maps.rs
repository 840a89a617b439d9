//! The maps, named and laid out as `flannel-common` says.

mod flow_ref;
mod node_ref;
mod shared;

use core::hint::black_box;
use core::ptr;

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, lpm_trie::Key};
use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use aya_ebpf::macros::btf_map;
use flannel_common::abi::{MAX_FLOWS, MAX_KEPT, MAX_LEASES, MAX_PORTS};
use flannel_common::address::{Address as _, V4, V6};
use flannel_common::entered::Entered;
use flannel_common::event::{self, Event};
use flannel_common::fingerprint::Token;
use flannel_common::flow::{self, Flow, FlowKey, Names};
use flannel_common::kept::KeptEnd;
use flannel_common::lease::{DIRECT, ENDED, Lease, NETWORK, NODE};
use flannel_common::node::NodeConfig;
use flannel_common::outcome::{Metrics, MetricsKey, Outcome, Traffic};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

pub use self::flow_ref::FlowRef;
pub use self::node_ref::{EndRef, NodeRef};
use crate::ip::Ip;
use crate::outer;
use crate::packet::Mac;

/// Leases of one family by prefix.
pub type Leases<A> = LpmTrie<A, Lease<A>, MAX_LEASES>;
/// Exact-match index over [`Leases`], tried before the trie.
pub type Subnets<A> = HashMap<Key<A>, Lease<A>, MAX_LEASES, { BPF_F_NO_PREALLOC as usize }>;
/// The flow cache of one family.
pub type Flows<A> = LruHashMap<FlowKey<A>, Flow<A>, MAX_FLOWS>;
/// Packets of one family in the host stack.
pub type InStack<A> = Array<Entered<A>, { Token::SLOTS }>;

#[btf_map]
static CONFIG: Array<NodeConfig, 1> = Array::new();

#[btf_map]
static LEASES: Leases<V4> = LpmTrie::new();

#[btf_map]
static LEASES6: Leases<V6> = LpmTrie::new();

#[btf_map]
static SUBNETS: Subnets<V4> = Subnets::new();

#[btf_map]
static SUBNETS6: Subnets<V6> = Subnets::new();

#[btf_map]
static METRICS: PerCpuArray<Metrics, 1> = PerCpuArray::new();

#[btf_map]
static FLOWS: Flows<V4> = LruHashMap::new();

#[btf_map]
static FLOWS6: Flows<V6> = LruHashMap::new();

#[btf_map]
static ENTERED: InStack<V4> = InStack::new();

#[btf_map]
static ENTERED6: InStack<V6> = InStack::new();

#[btf_map]
static PORTS: HashMap<u32, [u8; 6], MAX_PORTS, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

#[btf_map]
static SPENT: Array<u64, 2> = Array::new();

#[btf_map]
static TOO_BIG: Array<u64, 1> = Array::new();

#[btf_map]
static KEPT: LpmTrie<KeptEnd, u32, MAX_KEPT> = LpmTrie::new();

#[btf_map]
static EVENTS: RingBuf<Event, { event::RING_LEN }> = RingBuf::new();

#[btf_map]
static CPU: PerCpuArray<Cpu, 1> = PerCpuArray::new();

/// What a CPU notes for itself.
#[repr(C)]
pub struct Cpu {
    /// Start of the present [`event::WINDOW_NS`].
    since: u64,
    /// Events sent since then.
    sent: u32,
    /// Packets wrapped.
    wrapped: u32,
}

/// An address family with its maps, and this node's end of its overlay.
pub trait IpFamily: Ip {
    /// Returns this node's end of its overlay.
    fn overlay_end(node: NodeRef) -> EndRef<Self::Address>;
    /// Returns `LEASES` or `LEASES6`.
    fn leases() -> &'static Leases<Self::Address>;
    /// Returns `SUBNETS` or `SUBNETS6`.
    fn subnets() -> &'static Subnets<Self::Address>;
    /// Returns `FLOWS` or `FLOWS6`.
    fn flows() -> &'static Flows<Self::Address>;
    /// Returns `ENTERED` or `ENTERED6`.
    fn in_stack() -> &'static InStack<Self::Address>;
    /// Returns a flow of which nothing is known. It is not on the stack, which has 512 bytes.
    fn empty_flow() -> &'static Flow<Self::Address>;
}

macro_rules! ip_family {
    ($header:ty, $overlay_end:ident, $leases:ident, $subnets:ident, $flows:ident, $in_stack:ident) => {
        impl IpFamily for $header {
            #[inline(always)]
            fn overlay_end(node: NodeRef) -> EndRef<Self::Address> {
                node.$overlay_end()
            }

            #[inline(always)]
            fn leases() -> &'static Leases<Self::Address> {
                &$leases
            }

            #[inline(always)]
            fn subnets() -> &'static Subnets<Self::Address> {
                &$subnets
            }

            #[inline(always)]
            fn flows() -> &'static Flows<Self::Address> {
                &$flows
            }

            #[inline(always)]
            fn in_stack() -> &'static InStack<Self::Address> {
                &$in_stack
            }

            #[inline(always)]
            fn empty_flow() -> &'static Flow<Self::Address> {
                // SAFETY: it consists of numbers and bytes.
                static EMPTY: Flow<<$header as Ip>::Address> = unsafe { core::mem::zeroed() };
                &EMPTY
            }
        }
    };
}

ip_family!(Ipv4Hdr, v4, LEASES, SUBNETS, FLOWS, ENTERED);
ip_family!(Ipv6Hdr, v6, LEASES6, SUBNETS6, FLOWS6, ENTERED6);

/// Returns the node's configuration.
///
/// # Errors
/// [`Outcome::NoConfig`]
#[inline(always)]
pub fn node_config() -> Result<NodeRef, Outcome> {
    let config = CONFIG.get_ptr(0).ok_or(Outcome::NoConfig)?;
    // SAFETY: the map's value.
    let config = unsafe { NodeRef::new(config) };
    if config.layout() != 0 { Ok(config) } else { Err(Outcome::NoConfig) }
}

/// Reads the overlay's UDP port, wire order, and nothing else of the configuration.
#[inline(always)]
pub fn overlay_port() -> Option<[u8; 2]> {
    // SAFETY: the map's value.
    CONFIG.get_ptr(0).map(|config| unsafe { NodeRef::new(config) }.port())
}

/// Looks up the entry that covers an address, of any kind.
#[inline(always)]
pub fn lease<F: IpFamily>(node: NodeRef, address: F::Address) -> Option<Lease<F::Address>> {
    let local = F::overlay_end(node);
    let subnet = Key::new(local.subnet_len().into(), address.masked(local.subnet_mask()));
    let entry = match F::subnets().get_ptr(&subnet) {
        Some(entry) => entry,
        None => ptr::from_ref(F::leases().get(&Key::new(F::Address::BITS, address))?),
    };
    // SAFETY: numbers and bytes without padding; both maps align them to 4 bytes. The trie replaces entries instead of
    // changing them. The hash may give the memory to another subnet: a packet sent to the wrong node is dropped there.
    Some(unsafe { shared::load::<u32, _>(entry) })
}

/// Looks up the lease of the peer that packets to this pod address go to.
///
/// # Errors
/// [`Outcome::NoLease`], [`Outcome::Unleased`].
#[inline(always)]
pub fn peer<F: IpFamily>(node: NodeRef, address: F::Address) -> Result<Lease<F::Address>, Outcome> {
    match lease::<F>(node, address) {
        Some(lease) if lease.flags & !DIRECT == 0 => Ok(lease),
        Some(lease) if lease.flags & NODE == 0 && lease.flags & (NETWORK | ENDED) != 0 => {
            Err(Outcome::Unleased)
        }
        _ => Err(Outcome::NoLease),
    }
}

/// Looks up a flow by one of its names.
#[inline(always)]
pub fn flow<F: IpFamily>(name: &FlowKey<F::Address>) -> Option<FlowRef<F::Address>> {
    // SAFETY: the program that runs has looked it up.
    F::flows().get_ptr_mut(name).map(|entry| unsafe { FlowRef::new(entry) })
}

/// [`flannel_common::abi::FLOW_NS`]
#[unsafe(no_mangle)]
static FLOW_NS: u64 = flow::each_ns(MAX_FLOWS as u32);

/// Adds the entry of a flow under one of its names. Nothing else is known of the flow yet. `None`: new entries are spent
/// ([`flow::spend`]), or there is no memory for it.
#[inline(always)]
pub fn insert_flow<F: IpFamily>(
    name: &FlowKey<F::Address>,
    names: Names,
    other: &FlowKey<F::Address>,
    now: u64,
) -> Option<FlowRef<F::Address>> {
    let spent = SPENT.get_ptr_mut(if F::Address::BITS == V4::BITS { 0 } else { 1 })?;
    // SAFETY: a number that lives as long as the program. The loader sets it, which the compiler must not know.
    let each = unsafe { (&raw const FLOW_NS).read_volatile() };
    // SAFETY: a number, aligned as the type is. Two CPUs at the same time may spend as one.
    unsafe {
        let after = flow::spend(shared::load::<u64, u64>(spent), now, each)?;
        shared::store::<u64, _>(spent, after);
    }
    F::flows().insert(name, F::empty_flow(), 0).ok()?;
    let entry = flow::<F>(name)?;
    entry.set_names(name, names, other);
    Some(entry)
}

/// Removes a flow, under both of its names, if it is there.
#[inline(always)]
pub fn remove_flow<F: IpFamily>(name: &FlowKey<F::Address>) {
    let Some(flow) = flow::<F>(name) else { return };
    if flow.names() != Names::BOTH {
        let _ = F::flows().remove(flow.other());
    }
    let _ = F::flows().remove(name);
}

/// Returns whether the pod at this bridge port has this MAC.
#[inline(always)]
pub fn is_at_port(ifindex: u32, mac: Mac) -> bool {
    // SAFETY: the map's value.
    PORTS.get_ptr(ifindex).is_some_and(|known| unsafe { shared::load_mac(known) } == mac)
}

/// Returns whether flows with this end are kept in the host stack.
#[inline(always)]
pub fn is_kept(end: KeptEnd) -> bool {
    KEPT.get(&Key::new(KeptEnd::BITS, end)).is_some()
}

/// Notes a packet that enters the host stack.
#[inline(always)]
pub fn note_entered<F: IpFamily>(token: Token, packet: Entered<F::Address>) {
    if let Some(slot) = F::in_stack().get_ptr_mut(token.slot()) {
        // SAFETY: numbers and bytes without padding, in an array's value, which the kernel aligns to 8 bytes.
        unsafe { shared::store::<u64, _>(slot, packet) };
    }
}

/// Forgets the packet that entered the host stack with this token. A copy of it, as a bridge makes, then proves nothing more.
#[inline(always)]
pub fn forget_entered<F: IpFamily>(token: Token) {
    if let Some(slot) = F::in_stack().get_ptr_mut(token.slot()) {
        // SAFETY: as in `note_entered`.
        unsafe { shared::store::<u64, _>(&raw mut (*slot).fingerprint, 0) };
    }
}

/// Copies what was noted of the packet that entered the host stack with this token, or of another one.
#[inline(always)]
pub fn entered<F: IpFamily>(token: Token) -> Option<Entered<F::Address>> {
    let slot = F::in_stack().get_ptr(token.slot())?;
    // SAFETY: as in `note_entered`.
    Some(unsafe { shared::load::<u64, _>(slot) })
}

/// Notes that a packet was too big for its path, at this time.
#[inline(always)]
pub fn note_too_big(now: u64) {
    if let Some(last) = TOO_BIG.get_ptr_mut(0) {
        // SAFETY: a number, aligned as the type is.
        unsafe { shared::store::<u64, _>(last, now) };
    }
}

/// Returns when a packet was last too big for its path; 0: never.
#[inline(always)]
pub fn last_too_big() -> u64 {
    // SAFETY: as in `note_too_big`.
    TOO_BIG.get_ptr(0).map_or(0, |last| unsafe { shared::load::<u64, _>(last) })
}

/// Sends an event to the agent, within [`event::BUDGET`].
#[inline(always)]
pub fn emit_event(event: &Event, now: u64) {
    let Some(cpu) = CPU.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's slot, whose fields are numbers and aligned as the type is. A program that interrupts this one may
    // cost or add an event.
    unsafe {
        let (since, sent) = (&raw mut (*cpu).since, &raw mut (*cpu).sent);
        if now.wrapping_sub(shared::load::<u64, _>(since)) >= event::WINDOW_NS {
            shared::store::<u64, _>(since, now);
            shared::store::<u32, _>(sent, 0);
        }
        let already = shared::load::<u32, _>(sent);
        if already < event::BUDGET {
            shared::store::<u32, _>(sent, already + 1);
            // The ring is full if the agent has not read it for long. The counters have the packet as well.
            let _ = EVENTS.output(event, 0);
        }
    }
}

/// Returns the IPv4 identification of the next packet that this CPU wraps. (A random number takes 20 ns more.)
#[inline(always)]
pub fn next_identification() -> u16 {
    let Some(cpu) = CPU.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's slot, whose fields are numbers and aligned as the type is. A program that interrupts this one may use
    // the same number.
    let wrapped = unsafe {
        let wrapped = &raw mut (*cpu).wrapped;
        let next = shared::load::<u32, u32>(wrapped).wrapping_add(1);
        shared::store::<u32, _>(wrapped, next);
        next
    };
    // SAFETY: a helper call without pointers.
    outer::identification(wrapped, unsafe { bpf_get_smp_processor_id() })
}

/// Counts one program run.
#[inline(always)]
pub fn count(key: MetricsKey, bytes: u64) {
    // The verifier of Linux 6.1 loses what it knows of an outcome that a function has returned. The compiler, which would leave
    // the comparison out, must not know it.
    let position = black_box(key.position());
    let Some(metrics) = METRICS.get_ptr_mut(0) else { return };
    if position >= Metrics::COUNTERS {
        return;
    }
    // SAFETY: within `Metrics`, an array of `Traffic`. It is the CPU's own, and programs at one hook do not interrupt each other.
    unsafe {
        let traffic = metrics.cast::<Traffic>().add(position);
        (*traffic).packets += 1;
        (*traffic).bytes += bytes;
    }
}
