//! Measures one TCP connection at full speed.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd as _;
use std::panic::resume_unwind;
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context as _, Result, ensure};

use super::placed::bind_thread;
use super::served::{port_of, reached_at};
use super::uninterrupted;
use super::{Host, cpu_time};
use crate::wait::scaled;

const CHUNK: usize = 128 << 10;
const TIMEOUT: Duration = Duration::from_secs(5);
/// Linux's default, which a machine may have changed for all its namespaces. (BBR sends at a pace of its own, and probes.)
const CONGESTION_CONTROL: &[u8] = b"cubic";

/// Result of a bulk transfer.
#[derive(Debug, Clone, Copy)]
pub struct Bulk {
    /// Bytes that arrived.
    pub bytes: u64,
    /// Seconds from the first arrival to the last.
    pub seconds: f64,
    /// CPU time of both ends and of everything between them.
    pub cpu: Duration,
}

impl Bulk {
    /// Returns the bits received per second.
    pub fn bits_per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.bytes as f64 * 8.0 / self.seconds } else { 0.0 }
    }
}

/// Sends as much as one TCP connection takes for `duration`.
pub fn tcp_bulk(from: &dyn Host, to: &dyn Host, duration: Duration) -> Result<Bulk> {
    let listener = to.netns().tcp_listen(to.ip(), port_of(to))?;
    let client = from.netns().tcp_connect(reached_at(to, listener.local_addr()?))?;
    // Cannot block: the handshake is complete, so the connection is waiting.
    let (server, _) = listener.accept().context("accept")?;
    server.set_read_timeout(Some(scaled(TIMEOUT)))?;
    [&client, &server].into_iter().try_for_each(choose_congestion_control)?;
    let before = cpu_time::of_softirq_threads()?;
    let (sent, received) = thread::scope(|scope| {
        let receiver = scope.spawn(|| bind_thread(to).and_then(|()| receive(server)));
        let sender = scope.spawn(|| bind_thread(from).and_then(|()| send(client, duration)));
        let sent = sender.join().unwrap_or_else(|panic| resume_unwind(panic));
        (sent, receiver.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    let what = || format!("TCP bulk from {} to {}", from.ip(), to.ip());
    let (sender, received) = (sent.with_context(what)?, received.with_context(what)?);
    let between = cpu_time::of_softirq_threads()?.saturating_sub(before);
    Ok(Bulk { cpu: sender + received.cpu + between, ..received })
}

/// Returns the thread's CPU time.
fn send(mut stream: TcpStream, duration: Duration) -> Result<Duration> {
    let (start, chunk) = (Instant::now(), vec![0x5a; CHUNK]);
    while start.elapsed() < duration {
        stream.write_all(&chunk).context("send")?;
    }
    stream.shutdown(Shutdown::Write)?;
    cpu_time::of_thread()
}

fn receive(mut stream: TcpStream) -> Result<Bulk> {
    let mut buffer = vec![0; CHUNK];
    stream.read_exact(&mut buffer[..1]).context("receive")?;
    // The clock starts with the first byte, which is therefore not counted.
    let (start, mut bytes) = (Instant::now(), 0);
    loop {
        match uninterrupted(|| stream.read(&mut buffer)).context("receive")? {
            0 => break,
            length => bytes += length as u64,
        }
    }
    Ok(Bulk { bytes, seconds: start.elapsed().as_secs_f64(), cpu: cpu_time::of_thread()? })
}

fn choose_congestion_control(stream: &TcpStream) -> Result<()> {
    let (name, length) = (CONGESTION_CONTROL.as_ptr().cast(), CONGESTION_CONTROL.len() as u32);
    // SAFETY: the kernel reads that many bytes, which live through the call.
    let set = unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_CONGESTION, name, length)
    };
    ensure!(set == 0, "choose cubic for a TCP connection: {}", io::Error::last_os_error());
    Ok(())
}
