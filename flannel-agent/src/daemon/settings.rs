//! What flags and network configuration ask for, in the terms of uplink and backend. Pure.

use anyhow::{Result, bail};

use crate::cli::Flags;
use crate::config::NetworkConfig;
use crate::uplink::UplinkOptions;

/// Refuses what this version does not serve.
pub(super) fn served(config: &NetworkConfig) -> Result<()> {
    if config.ipv6.is_some() {
        bail!("the network configuration has EnableIPv6, which this version does not serve yet");
    }
    Ok(())
}

pub(super) fn uplink_options(flags: &Flags, config: &NetworkConfig) -> UplinkOptions {
    UplinkOptions {
        ifaces: flags.iface.clone(),
        iface_regexes: flags.iface_regex.clone(),
        can_reach: flags.iface_can_reach,
        public_ip: flags.public_ip,
        public_ipv6: flags.public_ipv6,
        overlay: [config.ipv4, config.ipv6].into_iter().flatten().map(|range| range.network).collect(),
    }
}
