//! What a packet needs to know of the lease that its destination lies in.

use crate::address::{Address, V4, V6};

/// [`Lease::flags`]: it is this node's own.
pub const OWN: u16 = 1;
/// [`Lease::flags`]: not a subnet but the node's own address, from which it may send into the overlay too.
pub const NODE: u16 = 2;
/// [`Lease::flags`]: it has ended, and nothing is sent there any more; what its node still sends is taken for a while.
pub const ENDED: u16 = 4;
/// [`Lease::flags`]: its node is on the uplink's link, and packets are routed there without a tunnel.
pub const DIRECT: u16 = 8;
/// [`Lease::flags`]: not a lease but the network: whatever has no longer prefix in the map, nobody leases.
pub const NETWORK: u16 = 16;

/// A node's lease, found by longest prefix in `LEASES` or `LEASES6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease<A: Address> {
    /// The node's public address: outer destination.
    pub public_ip: A,
    /// MAC of the node's vxlan device: inner destination MAC. A kernel peer drops frames to another.
    pub vtep_mac: [u8; 6],
    /// [`OWN`], [`NODE`], [`ENDED`], [`DIRECT`], [`NETWORK`]; 0 for a peer's subnet behind a tunnel.
    pub flags: u16,
}

const _: () = assert!(size_of::<Lease<V4>>() == 12 && align_of::<Lease<V4>>() == 2);
const _: () = assert!(size_of::<Lease<V6>>() == 24 && align_of::<Lease<V6>>() == 2);

#[cfg(feature = "user")]
// SAFETY: repr(C), no padding for either of the types that can be `A` (asserted above: 4 or 16, + 6 + 2), every bit
// pattern is valid.
unsafe impl<A: Address> aya::Pod for Lease<A> {}
