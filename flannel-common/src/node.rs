//! The node's configuration, as programs need it.

use crate::address::{Address, V4, V6};

/// [`NodeConfig::xdp`]: `underlay_xdp` is not attached.
pub const XDP_OFF: u32 = 0;
/// [`NodeConfig::xdp`]: it runs in the driver, on packets as they arrive.
pub const XDP_NATIVE: u32 = 1;
/// [`NodeConfig::xdp`]: it runs in the stack, after GRO.
pub const XDP_GENERIC: u32 = 2;

/// [`NodeConfig::floor`]: the kernel's vxlan device wraps packets, since others see what leaves it.
pub const FLOOR_WRAPS: u32 = 1;
/// [`NodeConfig::floor`]: the kernel's vxlan device unwraps packets, since others see what the uplink receives.
pub const FLOOR_UNWRAPS: u32 = 1 << 1;

/// [`OverlayEnd::source_check`]: every sender is accepted, as flannel does.
pub const SOURCE_CHECK_OFF: u32 = 0;
/// [`OverlayEnd::source_check`]: the pods' network is checked. Other inner sources are accepted from every node.
pub const SOURCE_CHECK_PODS: u32 = 1;
/// [`OverlayEnd::source_check`]: inner sources outside the pods' network are refused, but for a node's own address.
pub const SOURCE_CHECK_STRICT: u32 = 2;

/// [`NodeConfig::features`]: the network has IPv4.
pub const FEATURE_IPV4: u32 = 1;
/// [`NodeConfig::features`]: the network has IPv6.
pub const FEATURE_IPV6: u32 = 1 << 1;
/// [`NodeConfig::features`]: flows may skip the host stack.
pub const FEATURE_FLOW_CACHE: u32 = 1 << 2;
/// [`NodeConfig::features`]: VXLAN carries groups.
pub const FEATURE_GROUP_POLICY: u32 = 1 << 3;
/// [`NodeConfig::features`]: peers may be on the uplink's link.
pub const FEATURE_DIRECT_ROUTING: u32 = 1 << 4;
/// [`NodeConfig::features`]: XDP may strip outer headers.
pub const FEATURE_XDP: u32 = 1 << 5;
/// [`NodeConfig::features`]: senders may be checked.
pub const FEATURE_SOURCE_CHECK: u32 = 1 << 6;
/// [`NodeConfig::features`]: packets may have a tunnel. Without it, routes alone lead to other nodes.
pub const FEATURE_TUNNEL: u32 = 1 << 7;

/// The single value of `CONFIG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeConfig {
    /// [`crate::abi::LAYOUT`] of the agent that wrote the maps.
    pub layout: u32,
    /// VXLAN network identifier, 24 bits. Of a network without tunnels: the number that its pins have ([`crate::abi::ROUTED`]).
    pub vni: u32,
    /// 1: flows that the host stack passes unchanged skip it; 0: all go through it.
    pub flow_cache: u32,
    /// TTL of outer IPv4 packets, 1 to 255: the kernel's default, which its vxlan device uses as well.
    pub ttl: u32,
    /// 1: VXLAN carries a packet's mark as its group (`Backend.GBP`); 0: marks are not read or written.
    pub group_policy: u32,
    /// 1: flows to and from peers that routes reach without a tunnel may skip the host stack as well.
    pub direct_routing: u32,
    /// UDP destination port of the overlay, wire order.
    pub port: [u8; 2],
    /// MAC of the uplink: the outer destination MAC that `underlay_xdp` accepts.
    pub uplink_mac: [u8; 6],
    /// How `underlay_xdp` is attached: [`XDP_OFF`], [`XDP_NATIVE`], [`XDP_GENERIC`].
    pub xdp: u32,
    /// What is left to the floor: [`FLOOR_WRAPS`], [`FLOOR_UNWRAPS`].
    pub floor: u32,
    /// Key by which `underlay_ingress` recognises metadata of `underlay_xdp`, and `overlay_ingress` packets whose sender was
    /// checked; random, made with the maps.
    pub handover_key: [u8; 4],
    /// 1: where senders are checked, IP packets that no program has checked are dropped at the vxlan device; 0: they pass,
    /// since programs of others may take packets before the agent's see them.
    pub only_checked: u32,
    /// Proofs of flows that were given in another generation do not hold ([`crate::flow::Passage::generation`]). The agent raises it when
    /// routes change, say; from 1 on.
    pub generation: u32,
    /// How long a proof of a TCP flow holds, in milliseconds, at most [`crate::flow::PROOF_NS`].
    pub tcp_proof: u32,
    /// How long a proof of a UDP flow holds, in milliseconds, at most [`crate::flow::PROOF_NS`].
    pub udp_proof: u32,
    /// How long a proof of a translated flow holds, in milliseconds, at most [`crate::flow::TRANSLATED_NS`]; 0: such flows take no
    /// shortcut.
    pub translated_proof: u32,
    /// IPv4 over IPv4: `flannel.<VNI>`.
    pub v4: OverlayEnd<V4>,
    /// IPv6 over IPv6: `flannel-v6.<VNI>`.
    pub v6: OverlayEnd<V6>,
}

impl NodeConfig {
    /// Returns what the node may do, a bit for each, as of the constants `FEATURE_`: the programs are loaded for these alone. What is
    /// not among them is off, whatever the fields of `CONFIG` are changed to later.
    #[must_use]
    pub const fn features(&self) -> u32 {
        let source_check = self.v4.source_check | self.v6.source_check;
        let features = [
            (FEATURE_IPV4, self.v4.is_configured()),
            (FEATURE_IPV6, self.v6.is_configured()),
            (FEATURE_FLOW_CACHE, self.flow_cache != 0),
            (FEATURE_GROUP_POLICY, self.group_policy != 0),
            (FEATURE_DIRECT_ROUTING, self.direct_routing != 0),
            (FEATURE_XDP, self.xdp != XDP_OFF),
            (FEATURE_SOURCE_CHECK, source_check != SOURCE_CHECK_OFF),
            (FEATURE_TUNNEL, self.v4.overlay_ifindex | self.v6.overlay_ifindex != 0),
        ];
        let (mut set, mut index) = (0, 0);
        while index < features.len() {
            let (feature, on) = features[index];
            set |= if on { feature } else { 0 };
            index += 1;
        }
        set
    }
}

/// Returns the note on packets whose sender was checked, for this [`NodeConfig::handover_key`]. It is odd and above 1, as no
/// [`crate::fingerprint::Token`] is.
#[inline(always)]
#[must_use]
pub const fn checked_note([first, second, ..]: [u8; 4]) -> u16 {
    u16::from_ne_bytes([first, second]) | 3
}

/// This node's end of one family's overlay. All zeroes if the network does not have the family.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OverlayEnd<A: Address> {
    /// ifindex of the vxlan device; 0: there is none, and routes alone lead to other nodes.
    pub overlay_ifindex: u32,
    /// ifindex of the uplink, the interface that carries the outer packets.
    pub uplink_ifindex: u32,
    /// MTU of the uplink in bytes, which the outer IP packet must fit.
    pub uplink_mtu: u32,
    /// Which senders are accepted: [`SOURCE_CHECK_OFF`], [`SOURCE_CHECK_PODS`], [`SOURCE_CHECK_STRICT`].
    pub source_check: u32,
    /// The node's address on the uplink: outer source of what it sends, outer destination of what it accepts.
    pub local_ip: A,
    /// MAC of the vxlan device: inner destination MAC of what the node accepts.
    pub vtep_mac: [u8; 6],
    /// Prefix length in bits of the network of all pods.
    pub network_len: u8,
    /// Prefix length in bits of nodes' subnets: `SubnetLen`, `IPv6SubnetLen`.
    pub subnet_len: u8,
    /// Mask of [`Self::subnet_len`].
    pub subnet_mask: A,
}

impl<A: Address> OverlayEnd<A> {
    /// Returns whether the network has this family.
    #[inline(always)]
    #[must_use]
    pub const fn is_configured(&self) -> bool {
        self.uplink_ifindex != 0
    }
}

const _: () = assert!(size_of::<OverlayEnd<V4>>() == 32 && align_of::<OverlayEnd<V4>>() == 4);
const _: () = assert!(size_of::<OverlayEnd<V6>>() == 56 && align_of::<OverlayEnd<V6>>() == 4);
const _: () = assert!(size_of::<NodeConfig>() == 152 && align_of::<NodeConfig>() == 4);

#[cfg(feature = "user")]
// SAFETY: repr(C), no padding (asserted above: 6 * 4 + 2 + 6 + 8 * 4 + 32 + 56, and 4 * 4 + 8 + twice 4 or 16 within), every bit
// pattern is valid.
unsafe impl aya::Pod for NodeConfig {}
