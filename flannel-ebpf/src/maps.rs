//! The maps, named and laid out as `flannel-common` says.

use aya_ebpf::btf_maps::{Array, LpmTrie, LruHashMap, PerCpuHashMap, lpm_trie::Key};
use aya_ebpf::macros::btf_map;
use flannel_common::abi::{MAX_FLOWS, MAX_LEASES};
use flannel_common::address::{Address as _, V4, V6};
use flannel_common::flow::{Flow, FlowKey};
use flannel_common::lease::{DIRECT, Lease};
use flannel_common::node::{Node, Overlay};
use flannel_common::outcome::{Hook, MetricsKey, Outcome, Traffic};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

use crate::ip::Ip;

/// Which node an address of one family belongs to.
pub type Leases<A> = LpmTrie<A, Lease<A>, MAX_LEASES>;
/// What is known of the flows of one family.
pub type Flows<A> = LruHashMap<FlowKey<A>, Flow, MAX_FLOWS>;

#[btf_map]
static CONFIG: Array<Node, 1> = Array::new();

#[btf_map]
static LEASES: Leases<V4> = LpmTrie::new();

#[btf_map]
static LEASES6: Leases<V6> = LpmTrie::new();

#[btf_map]
static METRICS: PerCpuHashMap<MetricsKey, Traffic, { Outcome::ALL.len() * Hook::ALL.len() }> =
    PerCpuHashMap::new();

#[btf_map]
static FLOWS: Flows<V4> = LruHashMap::new();

#[btf_map]
static FLOWS6: Flows<V6> = LruHashMap::new();

/// One address family: its maps, and our part in its overlay.
pub trait Family: Ip {
    /// Our end of its overlay.
    fn ours(node: &Node) -> &Overlay<Self::Address>;
    /// Its leases.
    fn leases() -> &'static Leases<Self::Address>;
    /// Its flows.
    fn flows() -> &'static Flows<Self::Address>;
}

impl Family for Ipv4Hdr {
    #[inline(always)]
    fn ours(node: &Node) -> &Overlay<V4> {
        &node.v4
    }

    #[inline(always)]
    fn leases() -> &'static Leases<V4> {
        &LEASES
    }

    #[inline(always)]
    fn flows() -> &'static Flows<V4> {
        &FLOWS
    }
}

impl Family for Ipv6Hdr {
    #[inline(always)]
    fn ours(node: &Node) -> &Overlay<V6> {
        &node.v6
    }

    #[inline(always)]
    fn leases() -> &'static Leases<V6> {
        &LEASES6
    }

    #[inline(always)]
    fn flows() -> &'static Flows<V6> {
        &FLOWS6
    }
}

/// The node's own facts.
#[inline(always)]
pub fn node() -> Result<&'static Node, Outcome> {
    CONFIG.get(0).filter(|node| node.layout != 0).ok_or(Outcome::NoConfig)
}

/// The lease that holds this address, of whatever kind.
#[inline(always)]
pub fn lease<F: Family>(address: F::Address) -> Option<&'static Lease<F::Address>> {
    F::leases().get(&Key::new(F::Address::BITS, address))
}

/// The lease of the peer that packets to this pod address go to.
///
/// # Errors
/// [`Outcome::NoLease`]
#[inline(always)]
pub fn peer<F: Family>(address: F::Address) -> Result<&'static Lease<F::Address>, Outcome> {
    lease::<F>(address).filter(|lease| lease.flags & !DIRECT == 0).ok_or(Outcome::NoLease)
}

/// What is known of a flow. Programs on other CPUs read and write it too: every field stands for itself.
#[inline(always)]
pub fn flow<F: Family>(key: &FlowKey<F::Address>) -> Option<*mut Flow> {
    F::flows().get_ptr_mut(key)
}

/// Remembers a flow, in place of what was known of it. Those who hold the old entry keep it for their run.
#[inline(always)]
pub fn remember<F: Family>(key: &FlowKey<F::Address>, flow: &Flow) {
    // Without memory for one more flow its packets go on through the host stack.
    let _ = F::flows().insert(key, flow, 0);
}

/// Forgets a flow, if it is known.
#[inline(always)]
pub fn forget<F: Family>(key: &FlowKey<F::Address>) {
    let _ = F::flows().remove(key);
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
