//! Telling the agent of packets that it can do something about, or that somebody should know of.

use flannel_common::address::Address;
use flannel_common::event::Event;
use flannel_common::lease::Lease;
use flannel_common::node::NodeConfig;
use flannel_common::outcome::Outcome;

use crate::maps::{self, IpFamily};
use crate::stage::flow;
use crate::stage::parse::Inner;

/// The lease of the peer that a packet goes to. Of one to a pod that nobody leases the agent is told: the datastore may
/// know more than the maps.
///
/// # Errors
/// As of [`maps::peer`].
#[inline(always)]
pub fn peer_of<H: IpFamily>(inner: &Inner<'_, H>, node: &NodeConfig) -> Result<Lease<H::Address>, Outcome> {
    let pod = inner.ip.destination();
    maps::peer::<H>(node, pod).inspect_err(|outcome| {
        if *outcome == Outcome::Unleased {
            tell(&Event { outcome: *outcome, pod: pod.mapped(), node: [0; 16] });
        }
    })
}

/// Tells of a packet from a node that may not send in this pod's name.
#[inline(always)]
pub fn refused<A: Address>(outcome: Outcome, pod: A, node: impl Address) {
    tell(&Event { outcome, pod: pod.mapped(), node: node.mapped() });
}

/// A function of its own for the verifier, too: it is called from many places.
#[inline(never)]
fn tell(event: &Event) {
    maps::emit_event(event, flow::now());
}
