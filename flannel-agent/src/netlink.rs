//! rtnetlink: look-ups in the kernel, and its messages read into plain values.

pub mod address;
pub mod conntrack;
pub mod filter;
pub mod link;
pub mod message;
pub mod namespace;
pub mod notifications;
mod raw;
pub mod route;
pub mod xfrm;

use std::net::IpAddr;
use std::{fs, io};

use anyhow::{Context as _, Result};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::{Error, Handle};

/// Opens a socket for requests and hands it to the runtime. Dumps are filtered by the kernel
/// (`NETLINK_GET_STRICT_CHK`). It runs one dump per socket at a time, and refuses a second one with EBUSY.
///
/// # Errors
/// The socket cannot be opened, or the kernel is older than Linux 4.20.
///
/// # Panics
/// Outside a tokio runtime.
pub fn open() -> Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()
        .context("opening a netlink socket (Linux 4.20 or newer is needed)")?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Returns whether the kernel's part of a netlink protocol is loaded: then it has a socket. Opening one would load it.
///
/// # Errors
/// `/proc` cannot be read.
pub fn is_loaded(protocol: isize) -> io::Result<bool> {
    let sockets = fs::read_to_string("/proc/self/net/netlink")?;
    let protocol = protocol.to_string();
    Ok(sockets.lines().skip(1).any(|line| line.split_whitespace().nth(1) == Some(protocol.as_str())))
}

/// Returns the errno of a refused request, 0 for any other failure.
#[must_use]
pub fn errno(error: &Error) -> i32 {
    match error {
        Error::NetlinkError(refused) => -refused.raw_code(),
        _ => 0,
    }
}

/// Returns the address family of messages about this address.
#[must_use]
pub const fn family_of(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
