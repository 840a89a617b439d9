//! The maps, named and laid out as `flannel-common` says.

use aya_ebpf::btf_maps::{Array, LpmTrie, LruHashMap, PerCpuHashMap, lpm_trie::Key};
use aya_ebpf::macros::btf_map;
use flannel_common::abi::{MAX_FLOWS, MAX_LEASES};
use flannel_common::flow::{Flow, FlowKey};
use flannel_common::lease::Lease;
use flannel_common::node::Node;
use flannel_common::outcome::{Hook, MetricsKey, Outcome, Traffic};

#[btf_map]
static CONFIG: Array<Node, 1> = Array::new();

#[btf_map]
static LEASES: LpmTrie<[u8; 4], Lease, MAX_LEASES> = LpmTrie::new();

#[btf_map]
static METRICS: PerCpuHashMap<MetricsKey, Traffic, { Outcome::ALL.len() * Hook::ALL.len() }> =
    PerCpuHashMap::new();

#[btf_map]
static FLOWS: LruHashMap<FlowKey, Flow, MAX_FLOWS> = LruHashMap::new();

/// The node's own facts.
#[inline(always)]
pub fn node() -> Result<&'static Node, Outcome> {
    CONFIG.get(0).filter(|node| node.layout != 0).ok_or(Outcome::NoConfig)
}

/// The lease that holds this address, of whatever kind.
#[inline(always)]
pub fn lease(address: [u8; 4]) -> Option<&'static Lease> {
    LEASES.get(&Key::new(32, address))
}

/// The lease of the peer that packets to this pod address go to.
///
/// # Errors
/// [`Outcome::NoLease`]
#[inline(always)]
pub fn peer(address: [u8; 4]) -> Result<&'static Lease, Outcome> {
    lease(address).filter(|lease| lease.flags == 0).ok_or(Outcome::NoLease)
}

/// What is known of a flow. Programs on other CPUs read and write it too: every field stands for itself.
#[inline(always)]
pub fn flow(key: &FlowKey) -> Option<*mut Flow> {
    FLOWS.get_ptr_mut(key)
}

/// Remembers a flow, in place of what was known of it. Those who hold the old entry keep it for their run.
#[inline(always)]
pub fn remember(key: &FlowKey, flow: &Flow) {
    // Without memory for one more flow its packets go on through the host stack.
    let _ = FLOWS.insert(key, flow, 0);
}

/// Forgets a flow, if it is known.
#[inline(always)]
pub fn forget(key: &FlowKey) {
    let _ = FLOWS.remove(key);
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
