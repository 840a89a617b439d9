//! What flags and network configuration ask for, in the terms of the uplink. Pure.

use crate::cli::Flags;
use crate::config::NetworkConfig;
use crate::uplink::{Stack, UplinkOptions};

pub(super) fn uplink_options(flags: &Flags, config: &NetworkConfig) -> UplinkOptions {
    UplinkOptions {
        ifaces: flags.iface.clone(),
        iface_regexes: flags.iface_regex.clone(),
        can_reach: flags.iface_can_reach,
        stack: stack(config),
        public_ip: flags.public_ip,
        public_ipv6: flags.public_ipv6,
        overlay: [config.ipv4, config.ipv6].into_iter().flatten().map(|range| range.network).collect(),
    }
}

fn stack(config: &NetworkConfig) -> Stack {
    match (config.ipv4, config.ipv6) {
        (Some(_), Some(_)) => Stack::Dual,
        (None, Some(_)) => Stack::V6,
        (_, None) => Stack::V4,
    }
}
