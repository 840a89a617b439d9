//! Sends numbered datagrams at a steady pace in the background, to measure what a restart or a failure costs.

use std::net::UdpSocket;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::socket::{setsockopt, sockopt};

use super::Host;
use crate::wait::scaled;

/// The receiver stops when the sender has stopped and nothing has come for this long.
const QUIET: Duration = Duration::from_millis(100);
/// Bytes of the receive buffer. Large, so that a receiver that waits for a CPU loses nothing.
const BUFFER: usize = 16 << 20;

/// Result of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamReport {
    /// Datagrams sent.
    pub sent: u64,
    /// Numbers that arrived at least once.
    pub received: u64,
    /// Numbers that never arrived.
    pub lost: Vec<u64>,
    /// Datagrams that arrived more than once, each counted as often as it arrived again.
    pub duplicates: u64,
    /// The longest time between two arrivals, or between the last one and the end of sending.
    pub longest_gap: Duration,
}

/// A running stream. Dropping it ends it.
#[derive(Debug)]
pub struct Steady {
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<(u64, Instant)>>,
    receiver: Option<JoinHandle<Vec<(u64, Instant)>>>,
}

impl Steady {
    /// Sends a datagram every `pace`, or later, until the stream is stopped; at least one.
    pub fn start(from: &dyn Host, to: &dyn Host, pace: Duration) -> Result<Self> {
        let sink = to.netns().udp_bind(to.ip(), 0)?;
        setsockopt(&sink, sockopt::RcvBufForce, &BUFFER).context("enlarge a socket's buffer")?;
        sink.set_read_timeout(Some(scaled(QUIET)))?;
        let source = from.netns().udp_bind(from.ip(), 0)?;
        source.connect(sink.local_addr()?)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (sender_stop, receiver_stop) = (Arc::clone(&stop), Arc::clone(&stop));
        let sender = Some(thread::spawn(move || send(&source, pace, &sender_stop)));
        let receiver = Some(thread::spawn(move || receive(&sink, &receiver_stop)));
        Ok(Self { stop, sender, receiver })
    }

    /// Ends the stream, waits for datagrams on their way, and returns the result.
    pub fn stop(mut self) -> Result<StreamReport> {
        self.stop.store(true, Ordering::Relaxed);
        let (sent, end) = join(self.sender.take())?;
        let arrivals = join(self.receiver.take())?;
        Ok(report(sent, end, &arrivals))
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn join<T>(thread: Option<JoinHandle<T>>) -> Result<T> {
    Ok(thread.context("the stream was stopped before")?.join().unwrap_or_else(|panic| resume_unwind(panic)))
}

/// Returns how many were sent, and when the last one was.
fn send(socket: &UdpSocket, pace: Duration, stop: &AtomicBool) -> (u64, Instant) {
    let (mut due, mut number) = (Instant::now(), 0u64);
    loop {
        // A datagram that cannot be sent, for instance without a route, counts as lost.
        let _ = socket.send(&number.to_be_bytes());
        number += 1;
        // At least one is sent, even if the stream is stopped before this thread has run.
        let last = Instant::now();
        if stop.load(Ordering::Relaxed) {
            return (number, last);
        }
        // A sender that was delayed does not catch up: a burst would overflow queues.
        due = (due + pace).max(Instant::now());
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if stop.load(Ordering::Relaxed) {
            return (number, last);
        }
    }
}

fn receive(socket: &UdpSocket, stop: &AtomicBool) -> Vec<(u64, Instant)> {
    let (mut arrivals, mut number) = (Vec::new(), [0; 8]);
    loop {
        match socket.recv(&mut number) {
            Ok(8) => arrivals.push((u64::from_be_bytes(number), Instant::now())),
            Ok(_) => {}
            Err(_) if stop.load(Ordering::Relaxed) => return arrivals,
            Err(_) => {}
        }
    }
}

fn report(sent: u64, end: Instant, arrivals: &[(u64, Instant)]) -> StreamReport {
    let mut seen = vec![0u64; usize::try_from(sent).unwrap_or(0)];
    for (number, _) in arrivals {
        if let Some(times) = usize::try_from(*number).ok().and_then(|number| seen.get_mut(number)) {
            *times += 1;
        }
    }
    let lost: Vec<_> =
        (0..sent).zip(&seen).filter(|(_, times)| **times == 0).map(|(number, _)| number).collect();
    let duplicates = seen.iter().map(|times| times.saturating_sub(1)).sum();
    let at_end = arrivals.last().map(|(_, last)| end.saturating_duration_since(*last));
    let gaps = arrivals.windows(2).map(|pair| pair[1].1 - pair[0].1).chain(at_end);
    StreamReport {
        sent,
        received: sent - lost.len() as u64,
        lost,
        duplicates,
        longest_gap: gaps.max().unwrap_or_default(),
    }
}
