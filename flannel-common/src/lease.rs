//! Leases as programs see them.

use crate::address::{Address, V4, V6};

/// [`Lease::flags`]: this node's own.
pub const OWN: u16 = 1;
/// [`Lease::flags`]: not a subnet but the address of a node, which may send into the overlay as well.
pub const NODE: u16 = 2;
/// [`Lease::flags`]: the lease has ended. Nothing is sent there; packets from there are accepted for a while.
pub const ENDED: u16 = 4;
/// [`Lease::flags`]: the node is on the uplink's link; packets are routed there without a tunnel.
pub const DIRECT: u16 = 8;
/// [`Lease::flags`]: not a lease but the whole network; addresses without a longer prefix are not leased.
pub const NETWORK: u16 = 16;

/// Value of `LEASES`, `LEASES6`, `SUBNETS` and `SUBNETS6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease<A: Address> {
    /// Public address of the node: outer destination.
    pub public_ip: A,
    /// MAC of the node's vxlan device: inner destination MAC. The kernel drops frames to another one.
    pub vtep_mac: [u8; 6],
    /// [`OWN`], [`NODE`], [`ENDED`], [`DIRECT`], [`NETWORK`]; 0 for a peer's subnet behind a tunnel.
    pub flags: u16,
    /// MTU of the route to the node in bytes, which outer packets must fit; 0: the route has none of its own.
    pub route_mtu: u32,
}

const _: () = assert!(size_of::<Lease<V4>>() == 16 && align_of::<Lease<V4>>() == 4);
const _: () = assert!(size_of::<Lease<V6>>() == 28 && align_of::<Lease<V6>>() == 4);

#[cfg(feature = "user")]
// SAFETY: repr(C), no padding for either of the types that can be `A` (asserted above: 4 or 16, + 6 + 2 + 4), every bit
// pattern is valid.
unsafe impl<A: Address> aya::Pod for Lease<A> {}
