//! The maps, named and laid out as `flannel-common` says.

mod flow_ref;
mod shared;

use core::ptr;

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{
    Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf, lpm_trie::Key,
};
use aya_ebpf::macros::btf_map;
use flannel_common::abi::{MAX_FLOWS, MAX_LEASES};
use flannel_common::address::{Address as _, V4, V6};
use flannel_common::event::{self, Event};
use flannel_common::flow::{Flow, FlowKey};
use flannel_common::lease::{DIRECT, ENDED, Lease, NETWORK, NODE};
use flannel_common::node::{NodeConfig, OverlayEnd};
use flannel_common::outcome::{Hook, MetricsKey, Outcome, Traffic};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

pub use self::flow_ref::FlowRef;
use crate::ip::Ip;

/// Leases of one family by prefix.
pub type Leases<A> = LpmTrie<A, Lease<A>, MAX_LEASES>;
/// Exact-match index over [`Leases`], tried before the trie.
pub type Subnets<A> = HashMap<Key<A>, Lease<A>, MAX_LEASES, { BPF_F_NO_PREALLOC as usize }>;
/// The flow cache of one family.
pub type Flows<A> = LruHashMap<FlowKey<A>, Flow, MAX_FLOWS>;

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
static METRICS: PerCpuHashMap<MetricsKey, Traffic, { Outcome::ALL.len() * Hook::ALL.len() }> =
    PerCpuHashMap::new();

#[btf_map]
static FLOWS: Flows<V4> = LruHashMap::new();

#[btf_map]
static FLOWS6: Flows<V6> = LruHashMap::new();

#[btf_map]
static EVENTS: RingBuf<Event, { event::RING_LEN }> = RingBuf::new();

#[btf_map]
static BUDGET: PerCpuArray<EventBudget, 1> = PerCpuArray::new();

/// How many events a CPU has sent lately.
#[repr(C)]
pub struct EventBudget {
    /// Start of the present [`event::WINDOW_NS`].
    since: u64,
    /// Events since then.
    sent: u32,
    reserved: u32,
}

/// An address family with its maps, and this node's end of its overlay.
pub trait IpFamily: Ip {
    /// Returns this node's end of its overlay.
    fn overlay_end(node: &NodeConfig) -> &OverlayEnd<Self::Address>;
    /// Returns `LEASES` or `LEASES6`.
    fn leases() -> &'static Leases<Self::Address>;
    /// Returns `SUBNETS` or `SUBNETS6`.
    fn subnets() -> &'static Subnets<Self::Address>;
    /// Returns `FLOWS` or `FLOWS6`.
    fn flows() -> &'static Flows<Self::Address>;
}

macro_rules! ip_family {
    ($header:ty, $overlay_end:ident, $leases:ident, $subnets:ident, $flows:ident) => {
        impl IpFamily for $header {
            #[inline(always)]
            fn overlay_end(node: &NodeConfig) -> &OverlayEnd<Self::Address> {
                &node.$overlay_end
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
        }
    };
}

ip_family!(Ipv4Hdr, v4, LEASES, SUBNETS, FLOWS);
ip_family!(Ipv6Hdr, v6, LEASES6, SUBNETS6, FLOWS6);

/// Copies the node's configuration, which the agent may rewrite while programs run.
///
/// # Errors
/// [`Outcome::NoConfig`]
#[inline(always)]
pub fn node_config() -> Result<NodeConfig, Outcome> {
    let config = CONFIG.get_ptr(0).ok_or(Outcome::NoConfig)?;
    // SAFETY: numbers and bytes without padding, in an array's value, which the kernel aligns to 8 bytes.
    let config = unsafe { shared::load::<u64, _>(config) };
    if config.layout != 0 { Ok(config) } else { Err(Outcome::NoConfig) }
}

/// Reads the overlay's UDP port, wire order, and nothing else of the configuration.
#[inline(always)]
pub fn overlay_port() -> Option<[u8; 2]> {
    let config = CONFIG.get_ptr(0)?;
    // SAFETY: as in `node_config`. The port is at the start of a word.
    let [first, second, ..] = unsafe { shared::load::<u32, [u8; 4]>((&raw const (*config).port).cast()) };
    Some([first, second])
}

/// Looks up the entry that covers an address, of any kind.
#[inline(always)]
pub fn lease<F: IpFamily>(node: &NodeConfig, address: F::Address) -> Option<Lease<F::Address>> {
    let local = F::overlay_end(node);
    let subnet = Key::new(local.subnet_len.into(), address.masked(local.subnet_mask));
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
pub fn peer<F: IpFamily>(node: &NodeConfig, address: F::Address) -> Result<Lease<F::Address>, Outcome> {
    match lease::<F>(node, address) {
        Some(lease) if lease.flags & !DIRECT == 0 => Ok(lease),
        Some(lease) if lease.flags & NODE == 0 && lease.flags & (NETWORK | ENDED) != 0 => {
            Err(Outcome::Unleased)
        }
        _ => Err(Outcome::NoLease),
    }
}

/// Looks up a flow.
#[inline(always)]
pub fn flow<F: IpFamily>(key: &FlowKey<F::Address>) -> Option<FlowRef> {
    // SAFETY: the program that runs has looked it up.
    F::flows().get_ptr_mut(key).map(|entry| unsafe { FlowRef::new(entry) })
}

/// Adds or replaces a flow, and returns its entry. Nothing is known of it yet. `None`: there is no memory for it.
#[inline(always)]
pub fn insert_flow<F: IpFamily>(key: &FlowKey<F::Address>) -> Option<FlowRef> {
    /// Not on the stack, which has 512 bytes.
    // SAFETY: it consists of numbers and bytes.
    static EMPTY: Flow = unsafe { core::mem::zeroed() };
    let empty: &Flow = &EMPTY;
    F::flows().insert(key, empty, 0).ok()?;
    flow::<F>(key)
}

/// Removes a flow, if it is there.
#[inline(always)]
pub fn remove_flow<F: IpFamily>(key: &FlowKey<F::Address>) {
    let _ = F::flows().remove(key);
}

/// Sends an event to the agent, within [`event::BUDGET`].
#[inline(always)]
pub fn emit_event(event: &Event, now: u64) {
    let Some(budget) = BUDGET.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's slot, whose fields are numbers and aligned as the type is. A program that interrupts this one may
    // cost or add an event.
    unsafe {
        let (since, sent) = (&raw mut (*budget).since, &raw mut (*budget).sent);
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

/// Counts one program run.
#[inline(always)]
pub fn count(key: MetricsKey, bytes: u64) {
    if let Some(traffic) = METRICS.get_ptr_mut(key) {
        // SAFETY: this CPU's slot. Programs at one hook do not interrupt each other.
        unsafe {
            (*traffic).packets += 1;
            (*traffic).bytes += bytes;
        }
    } else {
        // The map has room for every pair of outcome and hook.
        let _ = METRICS.insert(key, Traffic { packets: 1, bytes }, 0);
    }
}
