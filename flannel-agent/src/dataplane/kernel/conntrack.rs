//! The connection tracker's setting for the flow cache.

use std::fs;
use std::io::ErrorKind;

use anyhow::{Context, Result};
use tracing::{info, warn};

/// A setting of the network namespace, since Linux 5.13. The file is absent where nothing tracks connections.
const BE_LIBERAL: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal";

/// Its name for `sysctl -w`.
const SETTING: &str = "net.netfilter.nf_conntrack_tcp_be_liberal";

/// Keeps the connection tracker as flows that skip the host stack need it: see [`be_liberal`].
#[derive(Debug, Default)]
pub struct LiberalTracker {
    /// It was so before.
    was_liberal: bool,
    /// It was set back by another program, which is logged once.
    is_contested: bool,
    /// Why it is strict.
    strict: Option<String>,
}

impl LiberalTracker {
    /// Makes the connection tracker liberal, again if another program has set it back. Returns whether that ends or begins
    /// to succeed.
    pub fn keep(&mut self) -> bool {
        let was_strict = self.strict.is_some();
        match be_liberal() {
            Ok(changed) => {
                if changed && !self.was_liberal {
                    info!("set {SETTING}, for the flow cache");
                } else if changed && !self.is_contested {
                    self.is_contested = true;
                    warn!(
                        "another program has set {SETTING} back to 0, and TCP connections stall while it is so. \
                         It is set again, each time. Please set it to 1 where the node's settings are (/etc/sysctl.d)"
                    );
                }
                self.was_liberal = true;
                self.strict = None;
            }
            Err(error) => self.strict = Some(format!("{error:#}")),
        }
        self.strict.is_some() != was_strict
    }

    /// Returns why it is strict.
    #[must_use]
    pub fn strict(&self) -> Option<&str> {
        self.strict.as_deref()
    }
}

/// Makes the connection tracker accept TCP packets outside the window. Of a flow that skips the host stack it
/// sees few packets, and rules that drop INVALID ones (kube-proxy's) would end the connection. Returns false if it does
/// already, or if there is none.
///
/// # Errors
/// The setting cannot be read or written.
pub fn be_liberal() -> Result<bool> {
    let current = match fs::read_to_string(BE_LIBERAL) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        current => current.with_context(|| format!("reading {BE_LIBERAL}"))?,
    };
    if current.trim() != "0" {
        return Ok(false);
    }
    fs::write(BE_LIBERAL, "1").with_context(|| {
        format!("writing 1 to {BE_LIBERAL} ({SETTING}=1 on the node, or `flannel-agent prepare-node` there, does it)")
    })?;
    Ok(true)
}
