//! What this node does: a constant of the loaded programs. The verifier removes the code of all else (frozen maps: Linux 5.2), so
//! that it is neither verified further nor compiled.

use flannel_common::address::{Address, V4};
use flannel_common::node::{FEATURE_IPV4, FEATURE_IPV6};

/// [`flannel_common::abi::FEATURES`]: everything, unless the loader says less.
#[unsafe(no_mangle)]
static FEATURES: u32 = u32::MAX;

/// Returns whether the node may do this ([`flannel_common::node::NodeConfig::features`]). What it does at present is in `CONFIG`.
#[inline(always)]
#[must_use]
pub fn has(feature: u32) -> bool {
    // SAFETY: a number that lives as long as the program. The loader sets it, which the compiler must not know.
    unsafe { (&raw const FEATURES).read_volatile() & feature != 0 }
}

/// Returns whether the network may have addresses of this family.
#[inline(always)]
#[must_use]
pub fn has_family<A: Address>() -> bool {
    has(if A::BITS == V4::BITS { FEATURE_IPV4 } else { FEATURE_IPV6 })
}
