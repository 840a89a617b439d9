//! Single datagrams and their echoes.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::uninterrupted;
use super::{Host, Pattern};
use crate::wait::scaled;

const TIMEOUT: Duration = Duration::from_secs(1);
const LARGEST: usize = 65_535;

/// Sends one datagram of `size` bytes and its echo back, checking every byte and both addresses.
pub fn udp_echo(from: &dyn Host, to: &dyn Host, size: usize) -> Result<()> {
    UdpSession::open(from, to)?.echo(size)
}

/// A UDP flow: all datagrams have the same two ports.
#[derive(Debug)]
pub struct UdpSession {
    client: UdpSocket,
    server: UdpSocket,
    seed: u64,
}

impl UdpSession {
    /// Binds both ends; nothing is sent yet.
    pub fn open(from: &dyn Host, to: &dyn Host) -> Result<Self> {
        Self::open_to(from, to, 0)
    }

    /// [`UdpSession::open`] to this port.
    pub fn open_to(from: &dyn Host, to: &dyn Host, port: u16) -> Result<Self> {
        let client = from.netns().udp_bind(from.ip(), 0)?;
        let server = to.netns().udp_bind(to.ip(), port)?;
        client.set_read_timeout(Some(scaled(TIMEOUT)))?;
        server.set_read_timeout(Some(scaled(TIMEOUT)))?;
        let seed = u64::from(client.local_addr()?.port());
        Ok(Self { client, server, seed })
    }

    /// Returns the client's address.
    pub fn client(&self) -> Result<SocketAddr> {
        Ok(self.client.local_addr()?)
    }

    /// Returns the server's address.
    pub fn server(&self) -> Result<SocketAddr> {
        Ok(self.server.local_addr()?)
    }

    /// Returns the client's and the server's socket, for datagrams that need not arrive.
    pub fn sockets(&self) -> Result<[UdpSocket; 2]> {
        Ok([self.client.try_clone()?, self.server.try_clone()?])
    }

    /// Sends one datagram to the server and one back.
    pub fn echo(&mut self, size: usize) -> Result<()> {
        self.request(size)?;
        self.answer(size)
    }

    /// Sends one datagram from client to server.
    pub fn request(&mut self, size: usize) -> Result<()> {
        self.seed += 1;
        pass(&self.client, &self.server, self.seed, size).context("the request")
    }

    /// Sends one datagram from server to client.
    pub fn answer(&mut self, size: usize) -> Result<()> {
        self.seed += 1;
        pass(&self.server, &self.client, self.seed, size).context("the answer")
    }
}

fn pass(from: &UdpSocket, to: &UdpSocket, seed: u64, size: usize) -> Result<()> {
    let (source, target) = (from.local_addr()?, to.local_addr()?);
    let way = || format!("UDP of {size} bytes from {source} to {target}");
    from.send_to(&Pattern::bytes(seed, size), target).with_context(way)?;
    let mut buffer = vec![0; LARGEST];
    let (length, seen) = uninterrupted(|| to.recv_from(&mut buffer)).with_context(way)?;
    ensure!(seen == source, "{}: it arrived from {seen}", way());
    ensure!(length == size, "{}: {length} bytes arrived", way());
    Pattern::new(seed).verify(&buffer[..length]).with_context(way)
}
