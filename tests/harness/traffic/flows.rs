//! Datagrams of many flows: each has its own source port, or source address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::{io, iter};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::socket::{SockaddrStorage, connect};

use super::Host;
use super::batch::DatagramBatch;

/// Bytes of an IPv4 and of a UDP header.
const IPV4: usize = 20;
const HEADERS: usize = IPV4 + 8;
const FIRST_PORT: u16 = 10_000;
/// Flows for each source address.
const PORTS: u32 = 50_000;
/// How far apart the source addresses are, from the host's own on.
const STRIDE: u8 = 100;

/// A sender of many flows. It writes IPv4 and UDP headers itself, as no host has that many sockets.
pub(super) struct Flows {
    socket: OwnedFd,
    batch: DatagramBatch,
    source: Ipv4Addr,
    count: u32,
    random: u32,
}

impl Flows {
    /// Prepares `count` flows of datagrams of `payload` bytes from the host, which end at `to`.
    pub(super) fn new(from: &dyn Host, to: SocketAddr, payload: usize, count: u32) -> Result<Self> {
        let (IpAddr::V4(source), SocketAddr::V4(to)) = (from.ip(), to) else {
            bail!("many flows are sent by IPv4 only");
        };
        ensure!(
            count > 0 && last_octet(source, count - 1).is_some(),
            "{source} has no room for {count} flows"
        );
        let socket = from.netns().run(raw_socket)?;
        let address = SockaddrStorage::from(SocketAddr::V4(to));
        connect(socket.as_raw_fd(), &address).context("connect a raw socket")?;
        let mut batch = DatagramBatch::new(HEADERS + payload);
        batch.fill(&datagram(source, to, payload));
        Ok(Self { socket, batch, source, count, random: 1 })
    }

    /// Sends one datagram of each flow.
    pub(super) fn send_each(&mut self) -> Result<()> {
        let mut flows = 0..self.count;
        while !flows.is_empty() {
            self.send(&mut flows)?;
        }
        Ok(())
    }

    /// Sends a batch, each datagram of a random flow. Returns how many were sent.
    pub(super) fn send_some(&mut self) -> Result<usize> {
        let (mut random, count) = (self.random, self.count);
        let mut flows = iter::repeat_with(|| {
            // Marsaglia's xorshift.
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            ((u64::from(random) * u64::from(count)) >> 32) as u32
        });
        let sent = self.send(&mut flows);
        self.random = random;
        sent
    }

    /// Sends a batch of the next flows, the last one again if there are too few.
    fn send(&mut self, flows: &mut impl Iterator<Item = u32>) -> Result<usize> {
        let Self { socket, batch, source, .. } = self;
        for (buffer, flow) in batch.each().zip(flows) {
            if let Some(last) = last_octet(*source, flow) {
                buffer[15] = last;
            }
            buffer[IPV4..IPV4 + 2].copy_from_slice(&(FIRST_PORT + (flow % PORTS) as u16).to_be_bytes());
        }
        batch.send(socket)
    }
}

/// Returns the last byte of a flow's source address.
fn last_octet(source: Ipv4Addr, flow: u32) -> Option<u8> {
    let addresses = u8::try_from(flow / PORTS).ok()?;
    source.octets()[3].checked_add(addresses.checked_mul(STRIDE)?).filter(|last| *last < u8::MAX)
}

/// Returns a datagram without a source port. Linux fills in length and checksum of the IPv4 header; UDP has none.
fn datagram(source: Ipv4Addr, to: SocketAddrV4, payload: usize) -> Vec<u8> {
    let mut bytes = vec![0; HEADERS + payload];
    (bytes[0], bytes[8], bytes[9]) = (0x45, 64, 17);
    bytes[12..16].copy_from_slice(&source.octets());
    bytes[16..20].copy_from_slice(&to.ip().octets());
    bytes[22..24].copy_from_slice(&to.port().to_be_bytes());
    bytes[24..26].copy_from_slice(&((payload + 8) as u16).to_be_bytes());
    bytes
}

fn raw_socket() -> Result<OwnedFd> {
    // SAFETY: socket() takes integers only.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) };
    ensure!(fd >= 0, "open a raw socket: {}", io::Error::last_os_error());
    // SAFETY: the descriptor is new and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
