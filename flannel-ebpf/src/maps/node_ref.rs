//! Access to the value of `CONFIG`, which the agent may rewrite while programs run.

use core::ptr::NonNull;

use flannel_common::address::{Address, V4, V6};
use flannel_common::node::{
    self, FEATURE_DIRECT_ROUTING, FEATURE_FLOW_CACHE, FEATURE_GROUP_POLICY, FEATURE_SOURCE_CHECK, NodeConfig,
    OverlayEnd, SOURCE_CHECK_OFF,
};

use super::shared::{load, load_mac};
use crate::features::{has, has_family};
use crate::packet::Mac;

/// The node's configuration. Each field is loaded by itself where it is needed: a copy of all would take a third of the stack.
#[derive(Clone, Copy)]
pub struct NodeRef(NonNull<NodeConfig>);

/// This node's end of one family's overlay, within the configuration.
#[derive(Clone, Copy)]
pub struct EndRef<A: Address>(NonNull<OverlayEnd<A>>);

/// Makes a method for each field, which copies it in words of this type.
macro_rules! fields {
    ($($word:ty: $($field:ident: $type:ty),+;)+) => {
        $($(
            #[doc = concat!("Copies the field `", stringify!($field), "`.")]
            #[inline(always)]
            #[must_use]
            pub fn $field(self) -> $type {
                // SAFETY: within the value of the map, aligned as the type is and at least to the word, numbers or bytes.
                unsafe { load::<$word, _>(&raw const (*self.0.as_ptr()).$field) }
            }
        )+)+
    };
}

/// Makes a method that copies a MAC.
macro_rules! mac {
    ($field:ident) => {
        #[doc = concat!("Copies the field `", stringify!($field), "`.")]
        #[inline(always)]
        #[must_use]
        pub fn $field(self) -> Mac {
            // SAFETY: within the value of the map.
            unsafe { load_mac(&raw const (*self.0.as_ptr()).$field) }
        }
    };
}

/// Makes a method for each field that switches a feature. It returns 0 where the programs were loaded without it.
macro_rules! switches {
    ($($field:ident: $feature:ident;)+) => {
        $(
            #[doc = concat!("Copies the field `", stringify!($field), "`.")]
            #[inline(always)]
            #[must_use]
            pub fn $field(self) -> u32 {
                // SAFETY: as of `fields`.
                if has($feature) { unsafe { load::<u32, _>(&raw const (*self.0.as_ptr()).$field) } } else { 0 }
            }
        )+
    };
}

/// For code on the host, where no map is.
impl From<&'static NodeConfig> for NodeRef {
    fn from(node: &'static NodeConfig) -> Self {
        Self(NonNull::from(node))
    }
}

impl NodeRef {
    /// # Safety
    /// `node` points to the value of `CONFIG`.
    #[inline(always)]
    pub(super) const unsafe fn new(node: *const NodeConfig) -> Self {
        // SAFETY: a value has an address.
        Self(unsafe { NonNull::new_unchecked(node.cast_mut()) })
    }

    fields! {
        u32: layout: u32, vni: u32, ttl: u32, xdp: u32, floor: u32, handover_key: [u8; 4], only_checked: u32, generation: u32, tcp_proof: u32, udp_proof: u32,
            translated_proof: u32;
        u16: port: [u8; 2];
    }

    mac!(uplink_mac);

    switches! {
        flow_cache: FEATURE_FLOW_CACHE;
        group_policy: FEATURE_GROUP_POLICY;
        direct_routing: FEATURE_DIRECT_ROUTING;
    }

    /// Returns the note on packets whose sender was checked ([`node::checked_note`]).
    #[inline(always)]
    #[must_use]
    pub fn checked_note(self) -> u16 {
        node::checked_note(self.handover_key())
    }

    /// Returns the end of the IPv4 overlay.
    #[inline(always)]
    #[must_use]
    pub const fn v4(self) -> EndRef<V4> {
        // SAFETY: within the value, which has an address.
        EndRef(unsafe { NonNull::new_unchecked(&raw mut (*self.0.as_ptr()).v4) })
    }

    /// Returns the end of the IPv6 overlay.
    #[inline(always)]
    #[must_use]
    pub const fn v6(self) -> EndRef<V6> {
        // SAFETY: within the value, which has an address.
        EndRef(unsafe { NonNull::new_unchecked(&raw mut (*self.0.as_ptr()).v6) })
    }
}

impl<A: Address> EndRef<A> {
    fields! {
        u32: overlay_ifindex: u32, uplink_ifindex: u32, uplink_mtu: u32, local_ip: A, subnet_mask: A;
        u8: subnet_len: u8;
    }

    mac!(vtep_mac);

    /// Returns whether the network has this family.
    #[inline(always)]
    #[must_use]
    pub fn is_configured(self) -> bool {
        has_family::<A>() && self.uplink_ifindex() != 0
    }

    /// Copies the field `source_check`.
    #[inline(always)]
    #[must_use]
    pub fn source_check(self) -> u32 {
        if !has(FEATURE_SOURCE_CHECK) || !has_family::<A>() {
            return SOURCE_CHECK_OFF;
        }
        // SAFETY: as of `fields`.
        unsafe { load::<u32, _>(&raw const (*self.0.as_ptr()).source_check) }
    }
}

const _: () = assert!(core::mem::offset_of!(NodeConfig, port).is_multiple_of(align_of::<u32>()));
const _: () = assert!(core::mem::offset_of!(NodeConfig, v4).is_multiple_of(align_of::<u32>()));
const _: () = assert!(core::mem::offset_of!(OverlayEnd<V4>, subnet_mask).is_multiple_of(align_of::<u32>()));
const _: () = assert!(core::mem::offset_of!(OverlayEnd<V6>, subnet_mask).is_multiple_of(align_of::<u32>()));
