//! What a packet needs to know of the lease that its destination lies in.

/// [`Lease::flags`]: it is this node's own.
pub const OWN: u16 = 1;
/// [`Lease::flags`]: not a subnet but the node's own address, from which it may send into the overlay too.
pub const NODE: u16 = 2;
/// [`Lease::flags`]: it has ended, and nothing is sent there any more; what its node still sends is taken for a while.
pub const ENDED: u16 = 4;

/// A node's lease, found by longest prefix in `LEASES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The node's public IPv4 address: outer destination.
    pub public_ip: [u8; 4],
    /// MAC of the node's vxlan device: inner destination MAC. A kernel peer drops frames to another.
    pub vtep_mac: [u8; 6],
    /// [`OWN`], [`NODE`], [`ENDED`]; 0 for a peer's subnet.
    pub flags: u16,
}

const _: () = assert!(size_of::<Lease>() == 12 && align_of::<Lease>() == 2);

#[cfg(feature = "user")]
// SAFETY: repr(C), no padding (asserted above: 4 + 6 + 2), every bit pattern is valid.
unsafe impl aya::Pod for Lease {}
