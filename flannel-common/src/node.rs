//! The node's own facts, as the programs need them.

use crate::address::{Address, V4, V6};

/// [`NodeConfig::xdp`]: `underlay_xdp` is not attached.
pub const XDP_OFF: u32 = 0;
/// [`NodeConfig::xdp`]: it runs in the driver, on packets as they arrived.
pub const XDP_NATIVE: u32 = 1;
/// [`NodeConfig::xdp`]: it runs in the stack, behind GRO.
pub const XDP_GENERIC: u32 = 2;

/// The single value of `CONFIG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeConfig {
    /// [`crate::abi::LAYOUT`] of the agent that wrote the maps.
    pub layout: u32,
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// 1: flows that the host stack lets through unchanged skip it; 0: all go through it.
    pub flow_cache: u32,
    /// Time to live of outer IPv4 packets, 1 to 255: the kernel's default, as its vxlan device has it.
    pub ttl: u32,
    /// 1: a packet's mark is its group, which VXLAN carries (`Backend.GBP`); 0: marks are left alone.
    pub group_policy: u32,
    /// 1: flows to and from peers on the uplink's link, which have no tunnel, may skip the host stack, too.
    pub direct_routing: u32,
    /// UDP destination port of the overlay, wire order.
    pub port: [u8; 2],
    /// MAC of the uplink: the outer destination MAC that `underlay_xdp` accepts.
    pub uplink_mac: [u8; 6],
    /// How `underlay_xdp` is attached: [`XDP_OFF`], [`XDP_NATIVE`], [`XDP_GENERIC`].
    pub xdp: u32,
    /// What `underlay_xdp` signs its word to `underlay_ingress` with; chosen at random when the maps are made.
    pub handover_key: [u8; 4],
    /// IPv4 over IPv4: `flannel.<VNI>`.
    pub v4: OverlayEnd<V4>,
    /// IPv6 over IPv6: `flannel-v6.<VNI>`.
    pub v6: OverlayEnd<V6>,
}

/// The node's end of one family's overlay. All zeroes where the network does not have the family.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OverlayEnd<A: Address> {
    /// ifindex of the vxlan device.
    pub overlay_ifindex: u32,
    /// ifindex of the uplink, the interface that carries the outer packets.
    pub uplink_ifindex: u32,
    /// MTU of the uplink in bytes: the outer IP packet must fit.
    pub uplink_mtu: u32,
    /// 1: a VXLAN packet whose sender does not hold the inner source is dropped; 0: it is taken, as flannel does.
    pub source_check: u32,
    /// Our address on the uplink: outer source, and the outer destination we accept.
    pub local_ip: A,
    /// MAC of our vxlan device: the inner destination MAC we accept.
    pub vtep_mac: [u8; 6],
    /// Prefix length in bits of the network that all pods are in.
    pub network_len: u8,
    /// Prefix length in bits of nodes' subnets: `SubnetLen`, `IPv6SubnetLen`.
    pub subnet_len: u8,
    /// The mask of [`Self::subnet_len`].
    pub subnet_mask: A,
}

impl<A: Address> OverlayEnd<A> {
    /// Whether the network has this family.
    #[inline(always)]
    #[must_use]
    pub const fn is_there(&self) -> bool {
        self.overlay_ifindex != 0
    }
}

const _: () = assert!(size_of::<OverlayEnd<V4>>() == 32 && align_of::<OverlayEnd<V4>>() == 4);
const _: () = assert!(size_of::<OverlayEnd<V6>>() == 56 && align_of::<OverlayEnd<V6>>() == 4);
const _: () = assert!(size_of::<NodeConfig>() == 128 && align_of::<NodeConfig>() == 4);

#[cfg(feature = "user")]
// SAFETY: repr(C), no padding (asserted above: 6 * 4 + 2 + 6 + 2 * 4 + 32 + 56, and 4 * 4 + 8 + twice 4 or 16 within), every bit
// pattern is valid.
unsafe impl aya::Pod for NodeConfig {}
