//! The overlay with real packets, between nodes that are network namespaces. Needs root, and says so.

mod backends;
mod clsact;
mod docker;
mod fallback;
mod firewall;
mod flow_cache;
mod flow_changes;
mod flow_refused;
mod forged;
mod healing;
mod leases;
mod mixed;
mod moving;
mod reachability;
mod restart;
mod routed;
mod takeover;
mod tcp;
mod too_big;
mod truncated;
mod udp;
mod uplink;
mod wire;
mod xdp;
