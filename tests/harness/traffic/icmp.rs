//! Echo requests, and whatever ICMP has to say about them.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use self::packet::{Echo, parse};
use super::{Host, Pattern};
use crate::wait::patience;

mod packet;
mod socket;

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// An echo reply with the payload that was sent.
    Reply {
        /// How long it took.
        time: Duration,
        /// TTL or hop limit of the reply; only IPv4 tells.
        ttl: Option<u8>,
    },
    /// Destination unreachable.
    Unreachable {
        /// Who said so.
        by: IpAddr,
        /// Why.
        code: u8,
    },
    /// Fragmentation needed, or packet too big.
    TooBig {
        /// Who said so; unspecified if the own device is too narrow.
        by: IpAddr,
        /// What would fit.
        mtu: u32,
    },
    /// The hop limit ran out.
    TimeExceeded {
        /// Where.
        by: IpAddr,
    },
}

/// An echo request's properties.
#[derive(Debug, Clone)]
pub struct Ping {
    /// Bytes of payload; 28 (IPv4) or 48 (IPv6) come on top.
    pub size: usize,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Whether routers must not fragment it, whatever they told before.
    pub dont_fragment: bool,
    /// How long to wait for an answer.
    pub timeout: Duration,
}

impl Default for Ping {
    fn default() -> Self {
        Self { size: 56, ttl: 64, dont_fragment: false, timeout: patience(Duration::from_secs(3)) }
    }
}

/// One echo request that has to be answered by a reply; gives the time it took.
pub fn ping(from: &dyn Host, to: IpAddr) -> Result<Duration> {
    match ping_with(from, to, &Ping::default())? {
        Answer::Reply { time, .. } => Ok(time),
        other => bail!("ping from {} to {to}: {other:?}", from.ip()),
    }
}

/// One echo request and its answer of any kind; none at all is an error.
pub fn ping_with(from: &dyn Host, to: IpAddr, ping: &Ping) -> Result<Answer> {
    attempt(from, to, ping).with_context(|| format!("ping from {} to {to}", from.ip()))
}

fn attempt(from: &dyn Host, to: IpAddr, ping: &Ping) -> Result<Answer> {
    let socket = from.netns().run(|| socket::open(from.ip(), ping))?;
    let payload = Pattern::bytes(ping.size as u64, ping.size);
    let echo = Echo { v6: to.is_ipv6(), id: next_id(), payload: &payload };
    let start = Instant::now();
    match socket::send(&socket, &echo.request(), SocketAddr::new(to, 0)) {
        Ok(()) => wait(&socket, &echo, to, start, ping.timeout),
        Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
            Ok(Answer::TooBig { by: IpAddr::V4(Ipv4Addr::UNSPECIFIED), mtu: 0 })
        }
        Err(error) => Err(error).context("send"),
    }
}

fn wait(socket: &OwnedFd, echo: &Echo<'_>, to: IpAddr, start: Instant, limit: Duration) -> Result<Answer> {
    let mut buffer = vec![0; 1 << 16];
    while start.elapsed() < limit {
        let (length, by) = match socket::receive(socket, &mut buffer) {
            Ok(received) => received,
            Err(error) if is_timeout(&error) => break,
            Err(error) => return Err(error).context("receive"),
        };
        match parse(&buffer[..length], by, echo) {
            Some(Answer::Reply { .. }) if by != to => bail!("the reply came from {by}"),
            Some(Answer::Reply { ttl, .. }) => return Ok(Answer::Reply { time: start.elapsed(), ttl }),
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
