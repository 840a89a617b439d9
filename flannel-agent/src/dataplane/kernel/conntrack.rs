//! The connection tracker's setting for the flow cache.

use std::fs;
use std::io::ErrorKind;

use anyhow::{Context, Result};
use tracing::info;

/// A setting of the network namespace, since Linux 5.13. The file is absent where nothing tracks connections.
const BE_LIBERAL: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";

/// Its name for `sysctl -w`.
const SETTING: &str = "net.netfilter.nf_conntrack_tcp_be_liberal";

/// Makes the connection tracker accept TCP packets outside the window. Of a flow that skips the host stack it
/// sees few packets, and rules that drop INVALID ones (kube-proxy's) would end the connection.
///
/// # Errors
/// The setting cannot be read or written.
pub fn be_liberal() -> Result<()> {
    let current = match fs::read_to_string(BE_LIBERAL) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        current => current.with_context(|| format!("reading {BE_LIBERAL}"))?,
    };
    if current.trim() != "0" {
        return Ok(());
    }
    fs::write(BE_LIBERAL, "1").with_context(|| {
        format!("writing 1 to {BE_LIBERAL} ({SETTING}=1 on the node, or `flannel-agent prepare-node` there, does it)")
    })?;
    info!("set {SETTING}, for the flow cache");
    Ok(())
}
