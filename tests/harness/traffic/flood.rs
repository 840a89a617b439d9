//! Sends datagrams as fast as possible and counts those that arrive.

use std::net::{SocketAddr, UdpSocket};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use super::batch::DatagramBatch;
use super::flows::Flows;
use super::placed::bind_thread;
use super::served::{port_of, reached_at};
use super::{Host, Pattern, cpu_time};

const RECEIVE_BUFFER: usize = 32 << 20;
/// The receiver stops when the sender has stopped and nothing has come for this long.
const QUIET: Duration = Duration::from_millis(50);
/// How often each of many flows has sent a datagram before the measurement.
const WARM_UP: u32 = 3;

/// Result of a flood.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// Datagrams that were sent.
    pub sent: u64,
    /// Datagrams that arrived.
    pub packets: u64,
    /// Those of them that arrived together first.
    first: u64,
    /// Seconds from the first arrival to the last.
    pub seconds: f64,
    /// CPU time from the sender's system calls to the receiver's socket.
    pub cpu: Duration,
}

impl Received {
    /// Returns the datagrams received per second. The clock starts with the first ones, which are therefore not counted.
    pub fn per_second(&self) -> f64 {
        if self.seconds > 0.0 { (self.packets - self.first) as f64 / self.seconds } else { 0.0 }
    }
}

/// Sends datagrams of `payload` bytes as fast as it can for `duration`, and counts them where they arrive.
pub fn udp_flood(from: &dyn Host, to: &dyn Host, payload: usize, duration: Duration) -> Result<Received> {
    flood(from, &Sink::open(to, payload)?, |target| {
        let source = from.netns().udp_bind(from.ip(), 0)?;
        source.connect(target)?;
        let mut batch = DatagramBatch::new(payload);
        batch.fill(&Pattern::bytes(1, payload));
        Ok(move || send(duration, || batch.send(&source)))
    })
}

/// [`udp_flood`] by IPv4, in which each datagram is of a random one of `flows` flows.
pub fn udp_flood_of(
    flows: u32,
    from: &dyn Host,
    to: &dyn Host,
    payload: usize,
    duration: Duration,
) -> Result<Received> {
    let prepare = |target| Flows::new(from, target, payload, flows);
    // Another sink would have another port, and flows to it would be others.
    let sink = Sink::open(to, payload)?;
    for _ in 0..WARM_UP {
        flood(from, &sink, |target| {
            let mut flows = prepare(target)?;
            Ok(move || flows.send_each().map(|()| (0, Duration::ZERO)))
        })?;
    }
    flood(from, &sink, |target| {
        let mut flows = prepare(target)?;
        Ok(move || send(duration, || flows.send_some()))
    })
}

/// Where datagrams arrive.
struct Sink<'a> {
    host: &'a dyn Host,
    socket: UdpSocket,
    payload: usize,
}

impl<'a> Sink<'a> {
    fn open(host: &'a dyn Host, payload: usize) -> Result<Self> {
        let socket = host.netns().udp_bind(host.ip(), port_of(host))?;
        setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).context("enlarge the receive buffer")?;
        Ok(Self { host, socket, payload })
    }
}

/// Counts what arrives while the sender runs that `prepare` makes for an address. A sender returns the datagrams that it has sent
/// and its CPU time.
fn flood<S: FnOnce() -> Result<(u64, Duration)> + Send>(
    from: &dyn Host,
    &Sink { host: to, ref socket, payload }: &Sink<'_>,
    prepare: impl FnOnce(SocketAddr) -> Result<S>,
) -> Result<Received> {
    let send = prepare(reached_at(to, socket.local_addr()?))?;
    let stop = AtomicBool::new(false);
    let before = cpu_time::of_softirq_threads()?;
    thread::scope(|scope| {
        let receiver = scope.spawn(|| bind_thread(to).and_then(|()| receive(socket, payload, &stop)));
        let sender = scope.spawn(|| bind_thread(from).and_then(|()| send()));
        let sent = sender.join().unwrap_or_else(|panic| resume_unwind(panic));
        stop.store(true, Ordering::Relaxed);
        let received = receiver.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        let (sent, sender) = sent?;
        let between = cpu_time::of_softirq_threads()?.saturating_sub(before);
        anyhow::Ok(Received { sent, cpu: sender + between, ..received })
    })
    .with_context(|| format!("flood from {} to {}", from.ip(), to.ip()))
}

/// Sends batches. Returns how many datagrams that were, and the CPU time.
fn send(duration: Duration, mut batch: impl FnMut() -> Result<usize>) -> Result<(u64, Duration)> {
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < duration {
        sent += batch()? as u64;
    }
    Ok((sent, cpu_time::of_thread()?))
}

/// Receives by polling instead of sleeping. Waking a receiver on another CPU costs the sender more than some of the
/// compared datapaths do, above all on a virtual machine. Under such load a receiver rarely sleeps anyway.
fn receive(socket: &UdpSocket, payload: usize, stop: &AtomicBool) -> Result<Received> {
    // One byte more than expected, so that a longer datagram is detected.
    let mut batch = DatagramBatch::new(payload + 1);
    let (mut packets, mut first, mut last) = (0, None, Instant::now());
    loop {
        let lengths = batch.receive(socket)?;
        if !lengths.is_empty() {
            last = Instant::now();
            let fitting = lengths.iter().filter(|length| **length == payload).count() as u64;
            packets += fitting;
            first.get_or_insert((last, fitting));
        } else if stop.load(Ordering::Relaxed) && last.elapsed() > QUIET {
            let (start, first) = first.unwrap_or((last, 0));
            let seconds = (last - start).as_secs_f64();
            return Ok(Received { sent: 0, packets, first, seconds, cpu: Duration::ZERO });
        }
    }
}
