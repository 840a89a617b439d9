//! Names under which programs and maps are found, and the version of their layouts.

/// Version of every map layout in this crate. An agent that finds pinned maps of another version
/// rebuilds them instead of misreading. It rises with any change to a key or value.
pub const LAYOUT: u32 = 11;

/// Folder of an overlay's pins: `<bpffs>/flannel/<VNI>/`.
pub const PIN_DIR: &str = "flannel";

/// Map: LPM prefix -> [`crate::lease::Lease`], of IPv4.
pub const LEASES: &str = "LEASES";
/// Map: LPM prefix -> [`crate::lease::Lease`], of IPv6.
pub const LEASES6: &str = "LEASES6";
/// Map: the leases of `LEASES` that one look is enough for: those of the network's `SubnetLen`, without another within.
pub const SUBNETS: &str = "SUBNETS";
/// Map: as [`SUBNETS`], of IPv6.
pub const SUBNETS6: &str = "SUBNETS6";
/// Map: one [`crate::node::NodeConfig`] at index 0.
pub const CONFIG: &str = "CONFIG";
/// Map: [`crate::outcome::MetricsKey`] -> [`crate::outcome::Traffic`], per CPU.
pub const METRICS: &str = "METRICS";
/// Map: [`crate::flow::FlowKey`] -> [`crate::flow::Flow`], of IPv4; the least recently used go first.
pub const FLOWS: &str = "FLOWS";
/// Map: as [`FLOWS`], of IPv6.
pub const FLOWS6: &str = "FLOWS6";
/// Ring buffer: [`crate::event::Event`]s.
pub const EVENTS: &str = "EVENTS";
/// The maps that are pinned by their own name.
pub const PINNED_MAPS: [&str; 9] =
    [LEASES, LEASES6, SUBNETS, SUBNETS6, CONFIG, METRICS, FLOWS, FLOWS6, EVENTS];

/// Most leases an overlay can have in a family (a /8 cut into /24 has 65 536).
pub const MAX_LEASES: usize = 1 << 17;

/// Most flows of a family that are remembered at a time; others go through the host stack.
pub const MAX_FLOWS: usize = 1 << 16;
