//! Sends single frames unchanged: valid, truncated or malformed.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nametoindex;

use crate::netns::NetNs;

/// Sends a frame, Ethernet header first, out of an interface. The kernel adds and checks nothing.
pub fn send_frame(netns: &NetNs, interface: &str, frame: &[u8]) -> Result<()> {
    netns
        .run(|| send(interface, frame))
        .with_context(|| format!("send {} bytes out of {interface} in {}", frame.len(), netns.name()))
}

fn send(interface: &str, frame: &[u8]) -> Result<()> {
    // SAFETY: socket() takes integers only.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    ensure!(fd >= 0, "open a packet socket: {}", io::Error::last_os_error());
    // SAFETY: the descriptor is new and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all zeroes is a valid sockaddr_ll.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = if_nametoindex(interface)?.cast_signed();
    let ether_type = frame.get(12..14).context("a frame has an Ethernet header")?;
    to.sll_protocol = u16::from_ne_bytes([ether_type[0], ether_type[1]]);
    let (address, length) = ((&raw const to).cast(), size_of::<libc::sockaddr_ll>() as u32);
    // SAFETY: the frame and the address live through the call, and the lengths are theirs.
    let sent =
        unsafe { libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, address, length) };
    ensure!(usize::try_from(sent) == Ok(frame.len()), "{}", io::Error::last_os_error());
    Ok(())
}
