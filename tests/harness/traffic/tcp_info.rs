//! What the kernel knows about a connection.

use std::io::Error;
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;

use anyhow::{Result, ensure};

/// Reads `TCP_INFO` of one end. Counters that a kernel does not have yet are 0.
pub(super) fn read(end: &TcpStream) -> Result<libc::tcp_info> {
    // SAFETY: all zeroes is a value of this structure of integers.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = u32::try_from(size_of_val(&info))?;
    let (to, socket) = ((&raw mut info).cast(), end.as_raw_fd());
    // SAFETY: the kernel writes no more than `length` bytes, which `info` has.
    let got = unsafe { libc::getsockopt(socket, libc::IPPROTO_TCP, libc::TCP_INFO, to, &raw mut length) };
    ensure!(got == 0, "read a connection's state: {}", Error::last_os_error());
    Ok(info)
}
