//! Raw ICMP sockets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, recvfrom, sendto,
    setsockopt, socket, sockopt,
};

/// Room for answers, and for requests to nodes whose MACs the kernel is asking for, in bytes. The kernel counts more than their own length.
const ROOM: usize = 32 << 20;

/// A socket for echo requests that are not fragmented here, whatever MTU of the path is known.
#[derive(Debug)]
pub(super) struct EchoSocket(OwnedFd);

impl EchoSocket {
    /// Opens a socket of an address family that sends from this address, or from the one that the kernel chooses.
    ///
    /// # Errors
    /// No privilege (`CAP_NET_RAW`), or the host does not have the address.
    pub(super) fn open(v6: bool, source: Option<IpAddr>) -> Result<Self> {
        let (family, protocol) = if v6 {
            (AddressFamily::Inet6, SockProtocol::IcmpV6)
        } else {
            (AddressFamily::Inet, SockProtocol::Icmp)
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(family, SockType::Raw, flags, protocol).context("opening a raw ICMP socket")?;
        if let Some(source) = source {
            bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))
                .with_context(|| format!("sending from {source}"))?;
        }
        // More than the limit needs a privilege, without which there is less room.
        if setsockopt(&socket, sockopt::RcvBufForce, &ROOM).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &ROOM).context("making room for answers")?;
        }
        if setsockopt(&socket, sockopt::SndBufForce, &ROOM).is_err() {
            setsockopt(&socket, sockopt::SndBuf, &ROOM).context("making room for requests")?;
        }
        if v6 {
            set(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
            set(&socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)?;
        } else {
            set(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
        }
        Ok(Self(socket))
    }

    /// Sends a message. Returns whether it was sent: the kernel refuses what is too long for the interface, or has no route. `None` if
    /// there is no room for it now.
    pub(super) fn send(&self, message: &[u8], to: IpAddr) -> Option<bool> {
        let to = SockaddrStorage::from(SocketAddr::new(to, 0));
        match sendto(self.0.as_raw_fd(), message, &to, MsgFlags::empty()) {
            Ok(_) => Some(true),
            Err(Errno::EAGAIN | Errno::ENOBUFS) => None,
            Err(_) => Some(false),
        }
    }

    /// Receives a packet and its sender; `None` if there is none now.
    ///
    /// # Errors
    /// The socket is broken.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, IpAddr)>> {
        loop {
            return match recvfrom::<SockaddrStorage>(self.0.as_raw_fd(), buffer) {
                Ok((length, from)) => {
                    let v4 = from.and_then(|from| from.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip())));
                    let v6 = from.and_then(|from| from.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())));
                    match v4.or(v6) {
                        Some(by) => Ok(Some((length, by))),
                        None => continue,
                    }
                }
                Err(Errno::EAGAIN) => Ok(None),
                Err(Errno::EINTR) => continue,
                Err(error) => Err(error.into()),
            };
        }
    }
}

impl AsFd for EchoSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn set(socket: &OwnedFd, level: i32, option: i32, value: i32) -> Result<()> {
    let (pointer, length) = ((&raw const value).cast(), size_of::<i32>() as u32);
    // SAFETY: the pointer is to an i32 that lives through the call, and the length is an i32's.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, pointer, length) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error()).context("setting an option of a raw ICMP socket")
    }
}
