//! A packet on its way to a peer, with what its way out needs.

use crate::maps::{IpFamily, NodeRef};
use crate::packet::Packet;
use crate::stage::parse::Inner;

/// A packet to a pod of a peer.
pub struct Outgoing<'a, H: IpFamily> {
    /// The whole packet.
    pub packet: &'a Packet<'a>,
    /// Its headers.
    pub inner: &'a Inner<H>,
    /// This node.
    pub node: NodeRef,
    /// The peer's public address: outer destination.
    pub peer: H::Address,
    /// Mark that makes the packet's group; 0 without group policy.
    pub mark: u32,
}
