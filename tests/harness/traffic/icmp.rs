//! Sends echo requests and receives their ICMP answers.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use self::packet::{Echo, parse};
use super::{Host, Pattern};
use crate::wait::scaled;

mod packet;
mod socket;

/// PingAnswer to an echo request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PingAnswer {
    /// An echo reply with the payload that was sent.
    Reply {
        /// Round-trip time.
        time: Duration,
        /// TTL of the reply; known for IPv4 only.
        ttl: Option<u8>,
    },
    /// Destination unreachable.
    Unreachable {
        /// Sender of the error.
        by: IpAddr,
        /// ICMP code.
        code: u8,
    },
    /// Fragmentation needed, or packet too big.
    TooBig {
        /// Sender of the error; unspecified if the MTU of the host's own interface is too small.
        by: IpAddr,
        /// MTU in the error.
        mtu: u32,
    },
    /// TTL or hop limit exceeded.
    TimeExceeded {
        /// Sender of the error.
        by: IpAddr,
    },
}

/// Properties of an echo request.
#[derive(Debug, Clone)]
pub struct Ping {
    /// Bytes of payload, without 28 (IPv4) or 48 (IPv6) bytes of headers.
    pub size: usize,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Forbids fragmentation, and ignores path MTUs learnt before.
    pub dont_fragment: bool,
    /// Time limit for the answer.
    pub timeout: Duration,
}

impl Default for Ping {
    fn default() -> Self {
        Self { size: 56, ttl: 64, dont_fragment: false, timeout: scaled(Duration::from_secs(3)) }
    }
}

/// Sends an echo request that must get a reply, and returns the round-trip time.
pub fn ping(from: &dyn Host, to: IpAddr) -> Result<Duration> {
    match ping_with(from, to, &Ping::default())? {
        PingAnswer::Reply { time, .. } => Ok(time),
        other => bail!("ping from {} to {to}: {other:?}", from.ip()),
    }
}

/// Sends an echo request and returns its answer. Fails if there is none.
pub fn ping_with(from: &dyn Host, to: IpAddr, ping: &Ping) -> Result<PingAnswer> {
    attempt(from, to, ping).with_context(|| format!("ping from {} to {to}", from.ip()))
}

fn attempt(from: &dyn Host, to: IpAddr, ping: &Ping) -> Result<PingAnswer> {
    let socket = from.netns().run(|| socket::open(from.ip(), ping))?;
    let payload = Pattern::bytes(ping.size as u64, ping.size);
    let echo = Echo { v6: to.is_ipv6(), id: next_id(), payload: &payload };
    let start = Instant::now();
    match socket::send(&socket, &echo.request(), SocketAddr::new(to, 0)) {
        Ok(()) => wait(&socket, &echo, to, start, ping.timeout),
        Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
            Ok(PingAnswer::TooBig { by: IpAddr::V4(Ipv4Addr::UNSPECIFIED), mtu: 0 })
        }
        Err(error) => Err(error).context("send"),
    }
}

fn wait(
    socket: &OwnedFd,
    echo: &Echo<'_>,
    to: IpAddr,
    start: Instant,
    limit: Duration,
) -> Result<PingAnswer> {
    let mut buffer = vec![0; 1 << 16];
    while start.elapsed() < limit {
        let (length, by) = match socket::receive(socket, &mut buffer) {
            Ok(received) => received,
            Err(error) if is_timeout(&error) => break,
            Err(error) => return Err(error).context("receive"),
        };
        match parse(&buffer[..length], by, echo) {
            Some(PingAnswer::Reply { .. }) if by != to => bail!("the reply came from {by}"),
            Some(PingAnswer::Reply { ttl, .. }) => {
                return Ok(PingAnswer::Reply { time: start.elapsed(), ttl });
            }
            Some(other) => return Ok(other),
            None => {}
        }
    }
    bail!("no answer within {limit:?}")
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn next_id() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
