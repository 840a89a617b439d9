//! The kernel's default TTL.

use std::fs;

use anyhow::{Context as _, Result};

const DEFAULT_TTL: &str = "/proc/sys/net/ipv4/ip_default_ttl";

/// Reads the kernel's default TTL (`ip_default_ttl`), used for outer headers as the vxlan device does with
/// `ttl auto`.
///
/// # Errors
/// The file cannot be read.
pub fn default_ttl() -> Result<u8> {
    let text = fs::read_to_string(DEFAULT_TTL).with_context(|| format!("reading {DEFAULT_TTL}"))?;
    text.trim().parse().with_context(|| format!("{DEFAULT_TTL} is {text:?}"))
}
