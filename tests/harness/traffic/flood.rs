//! Sends datagrams as fast as possible and counts those that arrive.

use std::net::UdpSocket;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use super::batch::DatagramBatch;
use super::placed::bind_thread;
use super::served::{port_of, reached_at};
use super::{Host, Pattern};

const RECEIVE_BUFFER: usize = 32 << 20;
/// The receiver stops when the sender has stopped and nothing has come for this long.
const QUIET: Duration = Duration::from_millis(50);

/// Result of a flood.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// Datagrams that were sent.
    pub sent: u64,
    /// Datagrams that arrived.
    pub packets: u64,
    /// Seconds from the first arrival to the last.
    pub seconds: f64,
}

impl Received {
    /// Returns the datagrams received per second.
    pub fn per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.packets as f64 / self.seconds } else { 0.0 }
    }
}

/// Sends datagrams of `payload` bytes as fast as it can for `duration`, and counts them where they arrive.
pub fn udp_flood(from: &dyn Host, to: &dyn Host, payload: usize, duration: Duration) -> Result<Received> {
    let sink = to.netns().udp_bind(to.ip(), port_of(to))?;
    setsockopt(&sink, RcvBufForce, &RECEIVE_BUFFER).context("enlarge the receive buffer")?;
    let source = from.netns().udp_bind(from.ip(), 0)?;
    source.connect(reached_at(to, sink.local_addr()?))?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let receiver = scope.spawn(|| bind_thread(to).and_then(|()| receive(&sink, payload, &stop)));
        let sender = scope.spawn(|| bind_thread(from).and_then(|()| send(&source, payload, duration)));
        let sent = sender.join().unwrap_or_else(|panic| resume_unwind(panic));
        stop.store(true, Ordering::Relaxed);
        let (packets, seconds) = receiver.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        anyhow::Ok(Received { sent: sent?, packets, seconds })
    })
    .with_context(|| format!("flood from {} to {}", from.ip(), to.ip()))
}

fn send(socket: &UdpSocket, payload: usize, duration: Duration) -> Result<u64> {
    let mut batch = DatagramBatch::new(payload);
    batch.fill(&Pattern::bytes(1, payload));
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < duration {
        sent += batch.send(socket)? as u64;
    }
    Ok(sent)
}

/// Receives by polling instead of sleeping. Waking a receiver on another CPU costs the sender more than some of the
/// compared datapaths do, above all on a virtual machine. Under such load a receiver rarely sleeps anyway.
fn receive(socket: &UdpSocket, payload: usize, stop: &AtomicBool) -> Result<(u64, f64)> {
    // One byte more than expected, so that a longer datagram is detected.
    let mut batch = DatagramBatch::new(payload + 1);
    let (mut packets, mut first, mut last) = (0, None, Instant::now());
    loop {
        let lengths = batch.receive(socket)?;
        if !lengths.is_empty() {
            last = Instant::now();
            let fitting = lengths.iter().filter(|length| **length == payload).count() as u64;
            // The clock starts with the arrival of the first batch, which is therefore not counted.
            packets += first.map_or(0, |_| fitting);
            first.get_or_insert(last);
        } else if stop.load(Ordering::Relaxed) && last.elapsed() > QUIET {
            return Ok((packets, first.map_or(0.0, |first| (last - first).as_secs_f64())));
        }
    }
}
