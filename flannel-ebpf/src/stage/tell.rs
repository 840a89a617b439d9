//! Telling the agent of packets that it can do something about, or that somebody should know of.

use flannel_common::address::Address;
use flannel_common::event::Event;
use flannel_common::outcome::Outcome;

use crate::maps;
use crate::stage::flow;

/// Tells of a packet to a pod that nobody leases: the datastore may know more than the maps.
#[inline(always)]
pub fn unleased<A: Address>(outcome: Outcome, pod: A) {
    if outcome == Outcome::Unleased {
        tell(&Event { outcome, pod: pod.mapped(), node: [0; 16] });
    }
}

/// Tells of a packet from a node that may not send in this pod's name.
#[inline(always)]
pub fn refused<A: Address>(outcome: Outcome, pod: A, node: impl Address) {
    tell(&Event { outcome, pod: pod.mapped(), node: node.mapped() });
}

/// A function of its own for the verifier, too: it is called from many places.
#[inline(never)]
fn tell(event: &Event) {
    maps::tell(event, flow::now());
}
