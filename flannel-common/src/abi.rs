//! Names of maps and pins, and the version of the maps' layouts.

/// Version of all map layouts. It rises with any change to a key or value, but for another outcome: [`METRICS`] of another size is
/// made anew by itself.
///
/// An agent that finds pinned maps of another version makes new ones.
pub const LAYOUT: u32 = 16;

/// Folder of the pins of all overlays: `<bpffs>/flannel/<VNI>/`. A network without tunnels has [`ROUTED`] and 24 bits of its own instead of a
/// VNI.
pub const PIN_DIR: &str = "flannel";

/// The bit that the numbers of networks without tunnels have, and no VNI. (Handles of filters have bit 24.)
pub const ROUTED: u32 = 1 << 25;

/// Map: prefix -> [`crate::lease::Lease`], by longest match, of IPv4.
pub const LEASES: &str = "LEASES";
/// Map: as [`LEASES`], of IPv6.
pub const LEASES6: &str = "LEASES6";
/// Map: exact-match index over [`LEASES`], tried before the trie. It has the leases whose prefix length is the network's
/// `SubnetLen` and that contain no longer prefix.
pub const SUBNETS: &str = "SUBNETS";
/// Map: as [`SUBNETS`], of IPv6.
pub const SUBNETS6: &str = "SUBNETS6";
/// Map: one [`crate::node::NodeConfig`] at index 0.
pub const CONFIG: &str = "CONFIG";
/// Map: one [`crate::outcome::Metrics`] at index 0, per CPU.
pub const METRICS: &str = "METRICS";
/// Map: [`crate::flow::FlowKey`] -> [`crate::flow::Flow`], of IPv4. A full map replaces the least recently used.
pub const FLOWS: &str = "FLOWS";
/// Map: as [`FLOWS`], of IPv6.
pub const FLOWS6: &str = "FLOWS6";
/// Map: [`crate::fingerprint::Token::slot`] -> [`crate::entered::Entered`], of IPv4. Not pinned: packets leave the stack at once.
pub const ENTERED: &str = "ENTERED";
/// Map: as [`ENTERED`], of IPv6.
pub const ENTERED6: &str = "ENTERED6";
/// Map: one number, when an ICMP message last said that a packet was too big for its path, in nanoseconds of [`CLOCK`].
/// Not pinned.
pub const TOO_BIG: &str = "TOO_BIG";
/// Map: ifindex of a pod's bridge port -> MAC of the pod's end, as far as flows may skip the host stack there.
pub const PORTS: &str = "PORTS";
/// Map: for IPv4 at index 0, for IPv6 at 1, until when new entries of flows are spent ([`crate::flow::spend`]). Not pinned.
pub const SPENT: &str = "SPENT";
/// Map: [`crate::kept::KeptEnd`] -> 1, by longest match.
pub const KEPT: &str = "KEPT";
/// Ring buffer: [`crate::event::Event`]s.
pub const EVENTS: &str = "EVENTS";
/// Global variable, a byte: 1 in programs that are only run on single frames, to see what they do with them.
pub const DRY_RUN: &str = "DRY_RUN";
/// Global variable, a number: [`crate::node::NodeConfig::features`]. Programs are loaded without the code of all others.
pub const FEATURES: &str = "FEATURES";
/// Global variable, a number of 64 bits: [`crate::flow::each_ns`] of the maps of flows.
pub const FLOW_NS: &str = "FLOW_NS";
/// Global variable, a number of 64 bits: nanoseconds between two ticks of the kernel, which the loader sets.
pub const TICK_NS: &str = "TICK_NS";
/// Program: writes the time of the programs' clock, in nanoseconds, over the first bytes of its packet. It is attached nowhere: user
/// space runs it to read the clock.
pub const CLOCK: &str = "clock";
/// Maps that are pinned under their own names.
pub const PINNED_MAPS: [&str; 11] =
    [LEASES, LEASES6, SUBNETS, SUBNETS6, CONFIG, METRICS, FLOWS, FLOWS6, PORTS, KEPT, EVENTS];

/// Capacity for leases of one family (a /8 of /24 subnets has 65 536).
pub const MAX_LEASES: usize = 1 << 17;

/// Capacity for ends of flows that rules look at. Where there are more, all flows stay in the host stack.
pub const MAX_KEPT: usize = 1 << 10;

/// Capacity for ports of pods. A Linux bridge has at most 1024.
pub const MAX_PORTS: usize = 1 << 12;

/// Capacity for flows of one family, unless the node has another (`--max-flows`). Other flows go through the host stack.
pub const MAX_FLOWS: usize = 1 << 16;
