//! Packet sockets (packet(7)).

use std::mem;
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Opens a socket in the calling thread's namespace. Returns it with the address of an interface.
///
/// The socket has protocol 0 and so receives nothing before it is bound. With all protocols it would first receive from
/// all interfaces.
pub(crate) fn open(interface: &str) -> Result<(OwnedFd, libc::sockaddr_ll)> {
    let index = if_nametoindex(interface).with_context(|| format!("look up the interface {interface}"))?;
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None);
    let mut address = empty_address();
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = index.cast_signed();
    Ok((socket.context("open a packet socket")?, address))
}

/// Returns an address for the kernel to fill in.
pub(crate) fn empty_address() -> libc::sockaddr_ll {
    // SAFETY: all zeroes is a valid sockaddr_ll.
    unsafe { mem::zeroed() }
}
