//! Events for the agent: packets to addresses that are not leased, and packets that the sender check drops.

use flannel_common::address::Address;
use flannel_common::event::Event;
use flannel_common::lease::Lease;
use flannel_common::outcome::Outcome;

use crate::clock;
use crate::maps::{self, IpFamily, NodeRef};
use crate::stage::parse::Inner;

/// Looks up the lease of the peer that a packet goes to. If the destination is not leased, the agent gets an event, since
/// the datastore may have a lease that is not in the maps yet.
///
/// # Errors
/// As for [`maps::peer`].
#[inline(always)]
pub fn peer_of<H: IpFamily>(inner: &Inner<H>, node: NodeRef) -> Result<Lease<H::Address>, Outcome> {
    let pod = inner.ip.destination();
    maps::peer::<H>(node, pod).inspect_err(|outcome| {
        if *outcome == Outcome::Unleased {
            emit(&Event { outcome: *outcome, pod: pod.mapped(), node: [0; 16] });
        }
    })
}

/// Reports a packet from a node that may not send from this pod's address.
#[inline(always)]
pub fn refused<A: Address>(outcome: Outcome, pod: A, node: impl Address) {
    emit(&Event { outcome, pod: pod.mapped(), node: node.mapped() });
}

/// Not inlined, so that the verifier has one function to check for many callers.
#[inline(never)]
fn emit(event: &Event) {
    maps::emit_event(event, clock::now());
}
