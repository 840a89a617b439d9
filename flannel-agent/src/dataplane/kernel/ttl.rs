//! How far packets go that say nothing of it.

use std::fs;

use anyhow::{Context as _, Result};

const DEFAULT_TTL: &str = "/proc/sys/net/ipv4/ip_default_ttl";

/// The time to live of packets that start in this network namespace; the vxlan device's outer packets do, with
/// `ttl auto`.
///
/// # Errors
/// The kernel does not say.
pub fn default_ttl() -> Result<u8> {
    let text = fs::read_to_string(DEFAULT_TTL).with_context(|| format!("reading {DEFAULT_TTL}"))?;
    text.trim().parse().with_context(|| format!("{DEFAULT_TTL} is {text:?}"))
}
