//! TCP transfers with every byte checked.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::panic::resume_unwind;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use super::{Host, Pattern};
use crate::wait::scaled;

const CHUNK: usize = 64 * 1024;
const TIMEOUT: Duration = Duration::from_secs(5);
const SEED: u64 = 0x7ab1e;

/// Result of a transfer.
#[derive(Debug, Clone, Copy)]
pub struct Transfer {
    /// Bytes that arrived unchanged.
    pub bytes: usize,
    /// Time from the first byte sent to the last received.
    pub time: Duration,
}

/// Sends `bytes` bytes over a new connection and checks each.
pub fn tcp_transfer(from: &dyn Host, to: &dyn Host, bytes: usize) -> Result<Transfer> {
    let TcpSession { client, server, .. } = TcpSession::open(from, to)?;
    let start = Instant::now();
    thread::scope(|scope| {
        let sender = scope.spawn(|| send_all(client, bytes));
        let received = receive_all(server);
        sender.join().unwrap_or_else(|panic| resume_unwind(panic)).context("send")?;
        let received = received.context("receive")?;
        ensure!(received == bytes, "{received} of {bytes} bytes arrived");
        Ok(Transfer { bytes, time: start.elapsed() })
    })
    .with_context(|| format!("TCP from {} to {}", from.ip(), to.ip()))
}

fn send_all(mut stream: TcpStream, bytes: usize) -> Result<()> {
    let (mut pattern, mut buffer, mut left) = (Pattern::new(SEED), vec![0; CHUNK], bytes);
    while left > 0 {
        let chunk = &mut buffer[..left.min(CHUNK)];
        pattern.fill(chunk);
        stream.write_all(chunk)?;
        left -= chunk.len();
    }
    Ok(stream.shutdown(Shutdown::Write)?)
}

fn receive_all(mut stream: TcpStream) -> Result<usize> {
    let (mut pattern, mut buffer, mut received) = (Pattern::new(SEED), vec![0; CHUNK], 0);
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(received);
        }
        pattern.verify(&buffer[..length])?;
        received += length;
    }
}

/// Both ends of a connection.
#[derive(Debug)]
pub struct TcpSession {
    /// The end that connected.
    pub client: TcpStream,
    /// The end that accepted.
    pub server: TcpStream,
    seed: u64,
}

impl TcpSession {
    /// Connects, from the host's own address to any free port.
    pub fn open(from: &dyn Host, to: &dyn Host) -> Result<Self> {
        Self::open_to(from, to, 0)
    }

    /// [`TcpSession::open`] to this port.
    pub fn open_to(from: &dyn Host, to: &dyn Host, port: u16) -> Result<Self> {
        let listener = to.netns().tcp_listen(to.ip(), port)?;
        let client = from.netns().tcp_connect(listener.local_addr()?)?;
        // Cannot block: the handshake is complete, so the connection is waiting.
        let (server, _) = listener.accept().context("accept")?;
        server.set_read_timeout(Some(scaled(TIMEOUT)))?;
        server.set_write_timeout(Some(scaled(TIMEOUT)))?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let seed = u64::from(client.local_addr()?.port());
        Ok(Self { client, server, seed })
    }

    /// Returns the client's address as the server sees it, after any NAT.
    pub fn seen_client(&self) -> Result<SocketAddr> {
        Ok(self.server.peer_addr()?)
    }

    /// Sends `size` bytes (no more than socket buffers hold) to the server and as many back.
    pub fn exchange(&mut self, size: usize) -> Result<()> {
        self.seed += 1;
        pass(&mut self.client, &mut self.server, self.seed, size).context("client to server")?;
        pass(&mut self.server, &mut self.client, self.seed, size).context("server to client")
    }
}

/// Sends bytes as fast as they go. Checks only that they arrive.
pub fn pour(mut from: &TcpStream, mut to: &TcpStream, bytes: usize) -> Result<()> {
    const CHUNK: usize = 1 << 20;
    thread::scope(|scope| {
        let sender = scope.spawn(move || {
            let chunk = vec![0; CHUNK];
            (0..bytes.div_ceil(CHUNK)).try_for_each(|_| from.write_all(&chunk))
        });
        let (mut buffer, mut left) = (vec![0; CHUNK], bytes.next_multiple_of(CHUNK));
        while left > 0 {
            let read = to.read(&mut buffer).with_context(|| format!("{left} bytes are to come"))?;
            ensure!(read > 0, "the connection has ended, {left} bytes are to come");
            left -= read;
        }
        sender.join().unwrap_or_else(|panic| resume_unwind(panic)).context("send")
    })
}

/// Ends a connection by a reset.
pub fn reset(end: TcpStream) -> Result<()> {
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&end, sockopt::Linger, &at_once).context("SO_LINGER")
}

fn pass(from: &mut TcpStream, to: &mut TcpStream, seed: u64, size: usize) -> Result<()> {
    from.write_all(&Pattern::bytes(seed, size))?;
    let mut buffer = vec![0; size];
    to.read_exact(&mut buffer)?;
    Pattern::new(seed).verify(&buffer)
}
