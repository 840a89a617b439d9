//! The connection tracker beside the flow cache.

use std::fs;
use std::io::ErrorKind;

use anyhow::{Context, Result};
use tracing::info;

/// Of one network namespace, as of Linux 5.13; absent where nothing tracks connections.
const BE_LIBERAL: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";

/// Has TCP packets taken for valid whatever their place in the sequence: the tracker sees one of many of a flow
/// that skips the host stack, and rules that drop what is INVALID (kube-proxy's) would end the connection.
pub(super) fn be_liberal() -> Result<()> {
    let current = match fs::read_to_string(BE_LIBERAL) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        current => current.with_context(|| format!("reading {BE_LIBERAL}"))?,
    };
    if current.trim() != "0" {
        return Ok(());
    }
    fs::write(BE_LIBERAL, "1").with_context(|| format!("writing 1 to {BE_LIBERAL}"))?;
    info!("set net.netfilter.nf_conntrack_tcp_be_liberal, for the flow cache");
    Ok(())
}
