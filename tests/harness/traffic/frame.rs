//! Sends single frames unchanged: valid, truncated or malformed.

use std::io;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, ensure};

use crate::netns::NetNs;
use crate::packet_socket;

/// Sends a frame, Ethernet header first, out of an interface. The kernel adds and checks nothing.
pub fn send_frame(netns: &NetNs, interface: &str, frame: &[u8]) -> Result<()> {
    netns
        .run(|| send(interface, frame))
        .with_context(|| format!("send {} bytes out of {interface} in {}", frame.len(), netns.name()))
}

fn send(interface: &str, frame: &[u8]) -> Result<()> {
    let (socket, mut to) = packet_socket::open(interface)?;
    let ether_type = frame.get(12..14).context("a frame has an Ethernet header")?;
    to.sll_protocol = u16::from_ne_bytes([ether_type[0], ether_type[1]]);
    let (address, length) = ((&raw const to).cast(), size_of::<libc::sockaddr_ll>() as u32);
    // SAFETY: frame and address live through the call and have the given lengths.
    let sent =
        unsafe { libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, address, length) };
    ensure!(usize::try_from(sent) == Ok(frame.len()), "{}", io::Error::last_os_error());
    Ok(())
}
