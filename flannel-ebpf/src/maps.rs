//! The maps, named and laid out as `flannel-common` says.

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

use crate::ip::Ip;

/// Which node an address of one family belongs to.
pub type Leases<A> = LpmTrie<A, Lease<A>, MAX_LEASES>;
/// Those of them that one look is enough for.
pub type Subnets<A> = HashMap<Key<A>, Lease<A>, MAX_LEASES, { BPF_F_NO_PREALLOC as usize }>;
/// What is known of the flows of one family.
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
static BUDGET: PerCpuArray<Budget, 1> = PerCpuArray::new();

/// What a CPU has told lately.
#[repr(C)]
pub struct Budget {
    /// When the present [`event::WINDOW_NS`] began.
    since: u64,
    /// Events since then.
    told: u32,
    reserved: u32,
}

/// One address family: its maps, and our part in its overlay.
pub trait IpFamily: Ip {
    /// Our end of its overlay.
    fn ours(node: &NodeConfig) -> &OverlayEnd<Self::Address>;
    /// Its leases.
    fn leases() -> &'static Leases<Self::Address>;
    /// Its leases by subnet.
    fn subnets() -> &'static Subnets<Self::Address>;
    /// Its flows.
    fn flows() -> &'static Flows<Self::Address>;
}

impl IpFamily for Ipv4Hdr {
    #[inline(always)]
    fn ours(node: &NodeConfig) -> &OverlayEnd<V4> {
        &node.v4
    }

    #[inline(always)]
    fn leases() -> &'static Leases<V4> {
        &LEASES
    }

    #[inline(always)]
    fn subnets() -> &'static Subnets<V4> {
        &SUBNETS
    }

    #[inline(always)]
    fn flows() -> &'static Flows<V4> {
        &FLOWS
    }
}

impl IpFamily for Ipv6Hdr {
    #[inline(always)]
    fn ours(node: &NodeConfig) -> &OverlayEnd<V6> {
        &node.v6
    }

    #[inline(always)]
    fn leases() -> &'static Leases<V6> {
        &LEASES6
    }

    #[inline(always)]
    fn subnets() -> &'static Subnets<V6> {
        &SUBNETS6
    }

    #[inline(always)]
    fn flows() -> &'static Flows<V6> {
        &FLOWS6
    }
}

/// The node's own facts.
#[inline(always)]
pub fn node() -> Result<&'static NodeConfig, Outcome> {
    CONFIG.get(0).filter(|node| node.layout != 0).ok_or(Outcome::NoConfig)
}

/// The lease that holds this address, of whatever kind.
#[inline(always)]
pub fn lease<F: IpFamily>(node: &NodeConfig, address: F::Address) -> Option<&'static Lease<F::Address>> {
    let ours = F::ours(node);
    let subnet = Key::new(ours.subnet_len.into(), address.masked(ours.subnet_mask));
    // SAFETY: who has found an entry may read one that has taken its place (no memory is given back before the program
    // ends, RCU): a lease written in the meantime, whose packets its receiver drops if they are not for it.
    let found = unsafe { F::subnets().get(&subnet) };
    found.or_else(|| F::leases().get(&Key::new(F::Address::BITS, address)))
}

/// The lease of the peer that packets to this pod address go to.
///
/// # Errors
/// [`Outcome::NoLease`], [`Outcome::Unleased`].
#[inline(always)]
pub fn peer<F: IpFamily>(
    node: &NodeConfig,
    address: F::Address,
) -> Result<&'static Lease<F::Address>, Outcome> {
    match lease::<F>(node, address) {
        Some(lease) if lease.flags & !DIRECT == 0 => Ok(lease),
        Some(lease) if lease.flags & NODE == 0 && lease.flags & (NETWORK | ENDED) != 0 => {
            Err(Outcome::Unleased)
        }
        _ => Err(Outcome::NoLease),
    }
}

/// What is known of a flow. Programs on other CPUs read and write it too: every field stands for itself.
#[inline(always)]
pub fn flow<F: IpFamily>(key: &FlowKey<F::Address>) -> Option<*mut Flow> {
    F::flows().get_ptr_mut(key)
}

/// Remembers a flow, in place of what was known of it. Those who hold the old entry keep it for their run.
#[inline(always)]
pub fn remember<F: IpFamily>(key: &FlowKey<F::Address>, flow: &Flow) {
    // Without memory for one more flow its packets go on through the host stack.
    let _ = F::flows().insert(key, flow, 0);
}

/// Forgets a flow, if it is known.
#[inline(always)]
pub fn forget<F: IpFamily>(key: &FlowKey<F::Address>) {
    let _ = F::flows().remove(key);
}

/// Tells the agent something, unless there has been too much of that lately.
#[inline(always)]
pub fn tell(event: &Event, now: u64) {
    let Some(budget) = BUDGET.get_ptr_mut(0) else { return };
    // SAFETY: the helper returned this CPU's slot; a program that interrupts this one may cost an event or add one.
    let budget = unsafe { &mut *budget };
    if now.wrapping_sub(budget.since) >= event::WINDOW_NS {
        *budget = Budget { since: now, told: 0, reserved: 0 };
    }
    if budget.told < event::BUDGET {
        budget.told += 1;
        // A full ring has been left alone by its reader for long; what it would say is in the counters.
        let _ = EVENTS.output(event, 0);
    }
}

/// Counts one program run.
#[inline(always)]
pub fn count(key: MetricsKey, bytes: u64) {
    if let Some(traffic) = METRICS.get_ptr_mut(key) {
        // SAFETY: the helper returned this CPU's slot; programs at one hook do not interrupt each other.
        unsafe {
            (*traffic).packets += 1;
            (*traffic).bytes += bytes;
        }
    } else {
        // A map without room for every (outcome, hook) cannot be: its size is their product.
        let _ = METRICS.insert(key, Traffic { packets: 1, bytes }, 0);
    }
}
