//! IPv6 settings of a device, in /proc/sys/net/ipv6/conf.

use std::fs;
use std::io::ErrorKind;

use anyhow::{Context as _, Result};
use tracing::info;

fn path(device: &str, name: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{device}/{name}")
}

fn is(device: &str, name: &str, value: &str) -> bool {
    fs::read_to_string(path(device, name)).is_ok_and(|is| is.trim() == value)
}

/// Switches IPv6 on for a device that carries it. A new device has it off where `net.ipv6.conf.default.disable_ipv6` is 1.
///
/// # Errors
/// It is off and /proc/sys cannot be written, as in a container without privileges. The error says what to set on the node.
pub(super) fn enable(device: &str) -> Result<()> {
    const SWITCH: &str = "disable_ipv6";
    if !is(device, SWITCH, "1") {
        return Ok(());
    }
    fs::write(path(device, SWITCH), "0").with_context(|| {
        format!(
            "the network has IPv6, which is off on {device}, and this process cannot write /proc/sys: on the node set \
             net/ipv6/conf/default/disable_ipv6=0 and net/ipv6/conf/{device}/disable_ipv6=0 by sysctl"
        )
    })?;
    info!(device, "set disable_ipv6 to 0: the device carries IPv6");
    Ok(())
}

/// Turns `accept_ra` off, since the overlay has no routers. Without IPv6, or with a read-only /proc/sys as in
/// an unprivileged container, the kernel's default stays, as with flanneld.
pub(super) fn ignore_router_advertisements(device: &str) {
    // 1: unless the node forwards (net/ipv6/ndisc.c: `ipv6_accept_ra`).
    if is(device, "accept_ra", "0") || is(device, "accept_ra", "1") && is(device, "forwarding", "1") {
        return;
    }
    match fs::write(path(device, "accept_ra"), "0") {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            info!(device, %error, "accept_ra cannot be set to 0 and stays as it is");
        }
        _ => {}
    }
}
