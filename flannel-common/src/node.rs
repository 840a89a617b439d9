//! The node's own facts, as the programs need them.

/// [`Node::xdp`]: `underlay_xdp` is not attached.
pub const XDP_OFF: u32 = 0;
/// [`Node::xdp`]: it runs in the driver, on packets as they arrived.
pub const XDP_NATIVE: u32 = 1;
/// [`Node::xdp`]: it runs in the stack, behind GRO.
pub const XDP_GENERIC: u32 = 2;

/// The single value of `CONFIG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// [`crate::abi::LAYOUT`] of the agent that wrote the maps.
    pub layout: u32,
    /// ifindex of `flannel.<VNI>`.
    pub overlay_ifindex: u32,
    /// ifindex of the uplink, the interface that carries the outer packets.
    pub uplink_ifindex: u32,
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// MTU of the uplink in bytes: the outer IP packet must fit.
    pub uplink_mtu: u32,
    /// Our IPv4 address on the uplink: outer source, and the outer destination we accept.
    pub local_ip: [u8; 4],
    /// MAC of our `flannel.<VNI>`: the inner destination MAC we accept.
    pub vtep_mac: [u8; 6],
    /// UDP destination port of the overlay, wire order.
    pub port: [u8; 2],
    /// 1: flows that the host stack lets through unchanged skip it; 0: all go through it.
    pub flow_cache: u32,
    /// 1: a VXLAN packet whose sender does not hold the inner source is dropped; 0: it is taken, as flannel does.
    pub source_check: u32,
    /// How `underlay_xdp` is attached: [`XDP_OFF`], [`XDP_NATIVE`], [`XDP_GENERIC`].
    pub xdp: u32,
    /// What `underlay_xdp` signs its word to `underlay_ingress` with; chosen at random when the maps are made.
    pub handover_key: [u8; 4],
    /// MAC of the uplink: the outer destination MAC that `underlay_xdp` accepts.
    pub uplink_mac: [u8; 6],
    /// 0.
    pub reserved: [u8; 2],
}

const _: () = assert!(size_of::<Node>() == 56 && align_of::<Node>() == 4);

#[cfg(feature = "user")]
// SAFETY: repr(C), no padding (asserted above: 5 * 4 + 4 + 6 + 2 + 2 * 4 + 2 * 4 + 6 + 2), every bit pattern is valid.
unsafe impl aya::Pod for Node {}
