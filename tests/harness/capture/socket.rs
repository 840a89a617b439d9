//! The packet socket of a capture.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::SystemTime;
use std::{io, ptr};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::CapturedFrame;
use crate::packet_socket::{self, empty_address};

const RECEIVE_BUFFER: usize = 64 << 20;
const TIMEOUT_US: i64 = 20_000;

/// Opens a socket for one interface, in the calling thread's namespace.
pub(super) fn open(interface: &str) -> Result<OwnedFd> {
    let (socket, mut address) = packet_socket::open(interface)?;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).context("enlarge the receive buffer")?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, TIMEOUT_US)).context("set a timeout")?;
    bind(&socket, &address)?;
    Ok(socket)
}

fn bind(socket: &OwnedFd, address: &libc::sockaddr_ll) -> Result<()> {
    let length = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: pointer and length are those of a sockaddr_ll that lives through the call.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), ptr::from_ref(address).cast(), length) };
    ensure!(bound == 0, "bind a packet socket: {}", io::Error::last_os_error());
    Ok(())
}

/// Returns the next packet. `None` if none is queued; with `wait`, if none has come within the timeout.
pub(super) fn receive(socket: &OwnedFd, buffer: &mut [u8], wait: bool) -> Result<Option<CapturedFrame>> {
    let mut from = empty_address();
    let mut from_length = size_of::<libc::sockaddr_ll>() as u32;
    let flags = if wait { 0 } else { libc::MSG_DONTWAIT };
    let (data, room) = (buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: the kernel writes at most `room` bytes to the buffer and at most `from_length` to the address.
    let length = unsafe {
        libc::recvfrom(socket.as_raw_fd(), data, room, flags, (&raw mut from).cast(), &raw mut from_length)
    };
    let Ok(length) = usize::try_from(length) else {
        let error = io::Error::last_os_error();
        let harmless = matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR | libc::ENETDOWN));
        return if harmless { Ok(None) } else { Err(error).context("read a packet socket") };
    };
    let outgoing = from.sll_pkttype == libc::PACKET_OUTGOING;
    Ok(Some(CapturedFrame { time: SystemTime::now(), outgoing, bytes: buffer[..length].to_vec() }))
}

/// Returns the number of packets dropped because the buffer was full.
pub(super) fn missed(socket: &OwnedFd) -> Result<u32> {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = size_of::<libc::tpacket_stats>() as u32;
    let (value, level) = ((&raw mut statistics).cast(), libc::SOL_PACKET);
    // SAFETY: the kernel writes at most `length` bytes to the statistics, which are that long.
    let got = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, libc::PACKET_STATISTICS, value, &raw mut length)
    };
    ensure!(got == 0, "read a packet socket's statistics: {}", io::Error::last_os_error());
    Ok(statistics.tp_drops)
}
