//! Flows that stay in the host stack, since a rule there looks at each of their packets.

use flannel_common::address::{Address, V4};
use flannel_common::flow::FlowKey;
use flannel_common::kept::KeptEnd;

use crate::maps;

/// Returns whether a flow with this name is kept. Asked when a packet would prove it.
#[inline(always)]
pub fn is_kept<A: Address>(name: &FlowKey<A>) -> bool {
    let family = if A::BITS == V4::BITS { 4 } else { 6 };
    let protocol = name.protocol[0];
    let end = |port, address: A| KeptEnd { family, protocol, port, address: address.mapped() };
    is_end_kept(&end(name.pod_port, name.pod)) || is_end_kept(&end(name.remote_port, name.remote))
}

/// Not inlined, so that the keys are not on the stack of its callers.
#[inline(never)]
fn is_end_kept(end: &KeptEnd) -> bool {
    maps::is_kept(*end) || maps::is_kept(KeptEnd { port: [0; 2], ..*end })
}
