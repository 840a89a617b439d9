//! A raw ICMP socket.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, recvfrom, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::Ping;

/// Opens a socket bound to the address, in the calling thread's namespace.
pub(super) fn open(ip: IpAddr, ping: &Ping) -> Result<OwnedFd> {
    let (family, protocol) = if ip.is_ipv4() {
        (AddressFamily::Inet, SockProtocol::Icmp)
    } else {
        (AddressFamily::Inet6, SockProtocol::IcmpV6)
    };
    let socket =
        socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).context("open a raw socket")?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(ip, 0)))
        .with_context(|| format!("bind {ip}"))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &timeval(ping.timeout)).context("set a timeout")?;
    if ip.is_ipv4() {
        set(&socket, libc::IPPROTO_IP, libc::IP_TTL, ping.ttl.into())?;
        set(&socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, discovery(ping))?;
    } else {
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, ping.ttl.into())?;
        set(&socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, discovery(ping))?;
    }
    Ok(socket)
}

/// Returns the option for path MTU discovery. PROBE sets "don't fragment" and ignores path MTUs learnt before. The values
/// are the same for IPv6.
fn discovery(ping: &Ping) -> i32 {
    if ping.dont_fragment { libc::IP_PMTUDISC_PROBE } else { libc::IP_PMTUDISC_DONT }
}

fn timeval(limit: std::time::Duration) -> TimeVal {
    TimeVal::new(limit.as_secs().cast_signed(), limit.subsec_micros().into())
}

fn set(socket: &OwnedFd, level: i32, option: i32, value: i32) -> Result<()> {
    let (pointer, length) = ((&raw const value).cast(), size_of::<i32>() as u32);
    // SAFETY: the pointer is to an i32 that lives through the call, and the length is an i32's.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, pointer, length) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()).context("set an option of a raw socket") }
}

pub(super) fn send(socket: &OwnedFd, message: &[u8], to: SocketAddr) -> io::Result<()> {
    sendto(socket.as_raw_fd(), message, &SockaddrStorage::from(to), MsgFlags::empty())?;
    Ok(())
}

pub(super) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, IpAddr)> {
    let (length, from) = recvfrom::<SockaddrStorage>(socket.as_raw_fd(), buffer)?;
    let v4 = from.and_then(|from| from.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip())));
    let v6 = from.and_then(|from| from.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())));
    let by = v4.or(v6).ok_or_else(|| io::Error::other("a packet without a sender"))?;
    Ok((length, by))
}
