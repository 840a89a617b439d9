//! Sends many datagrams and checks each: sent one by one, segmented by the kernel, or with UDP-Lite.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;
use std::{io, ops};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{SockaddrStorage, bind, setsockopt, sockopt};

use super::uninterrupted;
use super::{Host, Pattern};
use crate::wait::scaled;

/// Datagrams in a burst. A burst of the largest is shorter than 64 KiB, the limit for segmentation.
const BURST: u64 = 40;
/// Bytes of a datagram's number, at its beginning.
const NUMBER: usize = 8;
/// Time after which an incomplete burst is sent again: a busy machine drops datagrams.
const TIMEOUT: Duration = Duration::from_millis(300);
const REPEATS: usize = 4;
const RECEIVE_BUFFER: usize = 4 << 20;
/// Socket option of UDP-Lite, and a value: bytes that the checksum covers (RFC 3828 section 3.1).
const SEND_COVERAGE: libc::c_int = 10;
const COVERAGE: libc::c_int = 8 + NUMBER as libc::c_int;

/// How datagrams are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagrams {
    /// One by one.
    Single,
    /// Forty with one system call, segmented by the kernel or the card (`UDP_SEGMENT`: Linux 4.18).
    Segmented,
    /// With UDP-Lite; the checksum of every second one covers only its number.
    Lite,
}

impl Datagrams {
    /// Returns true if this kernel supports them.
    pub fn are_supported(self) -> bool {
        self != Self::Lite || lite_socket(IpAddr::from([127, 0, 0, 1])).is_ok()
    }
}

/// Sends bursts of 40 datagrams of `size` bytes (the last one of each is shorter), and checks every byte that arrives.
///
/// Returns the number of datagrams. Returns 0 if the kernel refuses to segment for the outgoing interface (one without
/// checksum offload, before Linux 6.11).
pub fn datagram_transfer(
    from: &dyn Host,
    to: &dyn Host,
    made: Datagrams,
    size: usize,
    bursts: u64,
) -> Result<u64> {
    let ends = Sockets::open(from, to, made)?;
    let what = || format!("{made:?} datagrams of {size} bytes from {} to {}", from.ip(), to.ip());
    for burst in 0..bursts {
        let numbers = burst * BURST..(burst + 1) * BURST;
        if !ends.pass(&Burst { numbers, size }).with_context(what)? {
            return Ok(0);
        }
    }
    Ok(bursts * BURST)
}

struct Burst {
    numbers: ops::Range<u64>,
    size: usize,
}

impl Burst {
    fn datagram(&self, number: u64) -> Vec<u8> {
        let size = if number + 1 == self.numbers.end { self.size / 2 + NUMBER } else { self.size };
        let mut bytes = Pattern::bytes(number, size);
        bytes[..NUMBER].copy_from_slice(&number.to_be_bytes());
        bytes
    }
}

struct Sockets {
    client: UdpSocket,
    server: UdpSocket,
    made: Datagrams,
}

impl Sockets {
    fn open(from: &dyn Host, to: &dyn Host, made: Datagrams) -> Result<Self> {
        let bind = |host: &dyn Host| match made {
            Datagrams::Lite => host.netns().run(|| lite_socket(host.ip())),
            Datagrams::Single | Datagrams::Segmented => host.netns().udp_bind(host.ip(), 0),
        };
        let (client, server) = (bind(from)?, bind(to)?);
        client.connect(server.local_addr()?)?;
        server.set_read_timeout(Some(scaled(TIMEOUT)))?;
        setsockopt(&server, sockopt::RcvBufForce, &RECEIVE_BUFFER).context("enlarge the receive buffer")?;
        Ok(Self { client, server, made })
    }

    /// Sends a burst until all of it has arrived. Returns false if the kernel refuses to segment.
    fn pass(&self, burst: &Burst) -> Result<bool> {
        let mut missing: BTreeSet<_> = burst.numbers.clone().collect();
        for _ in 0..REPEATS {
            if !self.send(burst)? {
                return Ok(false);
            }
            self.receive(burst, &mut missing)?;
            if missing.is_empty() {
                return Ok(true);
            }
        }
        anyhow::bail!("datagrams {missing:?} never arrived, though sent {REPEATS} times")
    }

    fn send(&self, burst: &Burst) -> Result<bool> {
        let datagrams = burst.numbers.clone().map(|number| burst.datagram(number));
        if self.made == Datagrams::Segmented {
            setsockopt(&self.client, sockopt::UdpGsoSegment, &i32::try_from(burst.size)?)?;
            let sent = self.client.send(&datagrams.flatten().collect::<Vec<_>>());
            return match sent {
                Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(false),
                sent => sent.map(|_| true).context("send a burst"),
            };
        }
        for (datagram, number) in datagrams.zip(burst.numbers.clone()) {
            if self.made == Datagrams::Lite {
                cover(&self.client, if number % 2 == 0 { 0 } else { COVERAGE })?;
            }
            self.client.send(&datagram).context("send a datagram")?;
        }
        Ok(true)
    }

    fn receive(&self, burst: &Burst, missing: &mut BTreeSet<u64>) -> Result<()> {
        let mut buffer = [0; 1 << 16];
        while !missing.is_empty() {
            let length = match uninterrupted(|| self.server.recv(&mut buffer)) {
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                received => received.context("receive a datagram")?,
            };
            let number = buffer[..length].first_chunk().map(|number| u64::from_be_bytes(*number));
            let number = number.with_context(|| format!("a datagram of {length} bytes arrived"))?;
            // Numbers of an earlier burst, which was sent twice, are ignored.
            if number >= burst.numbers.start {
                ensure!(
                    buffer[..length] == burst.datagram(number),
                    "datagram {number} was changed on its way"
                );
                missing.remove(&number);
            }
        }
        Ok(())
    }
}

/// Opens a UDP-Lite socket in the calling thread's namespace.
fn lite_socket(ip: IpAddr) -> Result<UdpSocket> {
    let domain = if ip.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: socket() takes integers only.
    let fd = unsafe { libc::socket(domain, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, libc::IPPROTO_UDPLITE) };
    ensure!(fd >= 0, "open a UDP-Lite socket: {}", io::Error::last_os_error());
    // SAFETY: the descriptor is new and has no other owner.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    bind(fd, &SockaddrStorage::from(SocketAddr::new(ip, 0)))
        .with_context(|| format!("bind UDP-Lite {ip}"))?;
    Ok(socket.into())
}

/// Sets how many bytes of a UDP-Lite datagram the checksum covers; 0 means all.
fn cover(socket: &UdpSocket, bytes: libc::c_int) -> Result<()> {
    let (value, length) = ((&raw const bytes).cast(), size_of::<libc::c_int>() as u32);
    // SAFETY: the kernel reads an integer of this length, which lives through the call.
    let set =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_UDPLITE, SEND_COVERAGE, value, length) };
    ensure!(set == 0, "cover {bytes} bytes by the checksum: {}", io::Error::last_os_error());
    Ok(())
}
