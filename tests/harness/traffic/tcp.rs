//! TCP transfers with every byte checked.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::panic::resume_unwind;
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use super::uninterrupted;
use super::{Host, Pattern, tcp_info};
use crate::wait::{eventually, scaled};

const CHUNK: usize = 64 * 1024;
/// Longest time until a part of the data has been sent or received.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time until what was sent again, though it was not lost, has arrived.
const SETTLED: Duration = Duration::from_secs(1);
const SEED: u64 = 0x7ab1e;

/// Sends `bytes` bytes over a new connection and checks each, and that no segment had a wrong checksum.
pub fn tcp_transfer(from: &dyn Host, to: &dyn Host, bytes: usize) -> Result<Transfer> {
    let TcpSession { client, server, .. } = TcpSession::open(from, to)?;
    let (start, refused) = (Instant::now(), wrong_checksums(to)?);
    carry(&client, &server, bytes)
        .and_then(|()| {
            let (time, refused) = (start.elapsed(), wrong_checksums(to)? - refused);
            ensure!(refused == 0, "{refused} segments had a wrong checksum");
            Ok(Transfer { bytes, time, client, server })
        })
        .with_context(|| format!("TCP from {} to {}", from.ip(), to.ip()))
}

/// Sends `bytes` bytes and ends the sender's direction. Checks each byte.
pub(super) fn carry(from: &TcpStream, to: &TcpStream, bytes: usize) -> Result<()> {
    thread::scope(|scope| {
        let sender = scope.spawn(|| send_all(from, bytes));
        // A sender that nobody reads from any more would wait.
        let received = receive_all(to).inspect_err(|_| _ = from.shutdown(Shutdown::Both));
        let sent = sender.join().unwrap_or_else(|panic| resume_unwind(panic));
        let received = received.with_context(|| match &sent {
            Ok(()) => "receive".to_owned(),
            Err(error) => format!("receive; send: {error:#}"),
        })?;
        sent.context("send")?;
        ensure!(received == bytes, "{received} of {bytes} bytes arrived");
        Ok(())
    })
}

/// A transfer that is complete.
#[derive(Debug)]
pub struct Transfer {
    /// Bytes that arrived unchanged.
    pub bytes: usize,
    /// Time from the first byte sent to the last received.
    pub time: Duration,
    client: TcpStream,
    server: TcpStream,
}

impl Transfer {
    /// Checks that both ends have counted the same segments, except for 2 %: fewer arrive where packets are dropped or too
    /// long, more where aggregates are cut wrongly or packets are doubled. What was sent again counts at both ends. So
    /// packets that overtake each other, which TCP may take for lost, do not disturb.
    pub fn ensure_few_lost(&self) -> Result<()> {
        eventually("the segments that were sent have arrived", SETTLED, || {
            let (client, server) = (tcp_info::read(&self.client)?, tcp_info::read(&self.server)?);
            let (sent, arrived) = (client.tcpi_data_segs_out, server.tcpi_data_segs_in);
            ensure!(
                sent > 0 && sent.abs_diff(arrived) * 50 <= sent,
                "{sent} segments were sent, {} of them again, and {arrived} arrived, {} of them out of order",
                client.tcpi_total_retrans,
                server.tcpi_rcv_ooopack
            );
            Ok(())
        })
        .with_context(|| format!("{:?}", self.client))
    }
}

/// Returns how many segments a host has refused for their checksum.
fn wrong_checksums(host: &dyn Host) -> Result<u64> {
    let snmp = host.netns().run(|| Ok(fs::read_to_string("/proc/thread-self/net/snmp")?))?;
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = lines.next().zip(lines.next()).context("no TCP counters")?;
    let mut counters = names.split(' ').zip(values.split(' '));
    Ok(counters.find(|(name, _)| *name == "InCsumErrors").context("no counter InCsumErrors")?.1.parse()?)
}

fn send_all(mut stream: &TcpStream, bytes: usize) -> Result<()> {
    let (mut pattern, mut buffer, mut left) = (Pattern::new(SEED), vec![0; CHUNK], bytes);
    while left > 0 {
        let chunk = &mut buffer[..left.min(CHUNK)];
        pattern.fill(chunk);
        stream.write_all(chunk)?;
        left -= chunk.len();
    }
    Ok(stream.shutdown(Shutdown::Write)?)
}

fn receive_all(mut stream: &TcpStream) -> Result<usize> {
    let (mut pattern, mut buffer, mut received) = (Pattern::new(SEED), vec![0; CHUNK], 0);
    loop {
        let length = uninterrupted(|| stream.read(&mut buffer))?;
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
            let read = uninterrupted(|| to.read(&mut buffer))
                .with_context(|| format!("{left} bytes are to come"))?;
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
