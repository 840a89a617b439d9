//! Names under which programs and maps are found, and the version of their layouts.

/// Version of every map layout in this crate. An agent that finds pinned maps of another version
/// rebuilds them instead of misreading. It rises with any change to a key or value.
pub const LAYOUT: u32 = 5;

/// Folder of an overlay's pins: `<bpffs>/flannel/<VNI>/`.
pub const PIN_DIR: &str = "flannel";

/// Map: LPM prefix -> [`crate::lease::Lease`].
pub const LEASES: &str = "LEASES";
/// Map: one [`crate::node::Node`] at index 0.
pub const CONFIG: &str = "CONFIG";
/// Map: [`crate::outcome::MetricsKey`] -> [`crate::outcome::Traffic`], per CPU.
pub const METRICS: &str = "METRICS";
/// Map: [`crate::flow::FlowKey`] -> [`crate::flow::Flow`]; the least recently used go first.
pub const FLOWS: &str = "FLOWS";
/// The maps that are pinned by their own name.
pub const PINNED_MAPS: [&str; 4] = [LEASES, CONFIG, METRICS, FLOWS];

/// Most leases an overlay can have (a /8 cut into /24 has 65 536).
pub const MAX_LEASES: usize = 1 << 17;

/// Most flows that are remembered at a time; others go through the host stack.
pub const MAX_FLOWS: usize = 1 << 16;
