//! Numbered datagrams at a steady pace in the background, to see what a restart or a failure costs.

use std::net::UdpSocket;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::socket::{setsockopt, sockopt};

use super::Host;
use crate::wait::patience;

/// The receiver stops when the sender has, and nothing came for this long.
const QUIET: Duration = Duration::from_millis(100);
/// Bytes of buffer for what arrives while the receiver does not get to run: a loss is the network's.
const BUFFER: usize = 16 << 20;

/// What became of a steady stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Datagrams sent.
    pub sent: u64,
    /// Numbers that arrived at least once.
    pub received: u64,
    /// Numbers that never arrived.
    pub lost: Vec<u64>,
    /// Datagrams that arrived again.
    pub duplicates: u64,
    /// The longest time between two arrivals.
    pub longest_gap: Duration,
}

/// A running stream; dropped, it ends.
#[derive(Debug)]
pub struct Steady {
    over: Arc<AtomicBool>,
    sender: Option<JoinHandle<u64>>,
    receiver: Option<JoinHandle<Vec<(u64, Instant)>>>,
}

impl Steady {
    /// Sends a datagram every `pace`, or later, until told to stop.
    pub fn start(from: &dyn Host, to: &dyn Host, pace: Duration) -> Result<Self> {
        let sink = to.netns().udp_bind(to.ip(), 0)?;
        setsockopt(&sink, sockopt::RcvBufForce, &BUFFER).context("enlarge a socket's buffer")?;
        sink.set_read_timeout(Some(patience(QUIET)))?;
        let source = from.netns().udp_bind(from.ip(), 0)?;
        source.connect(sink.local_addr()?)?;
        let over = Arc::new(AtomicBool::new(false));
        let (sender_over, receiver_over) = (Arc::clone(&over), Arc::clone(&over));
        let sender = Some(thread::spawn(move || send(&source, pace, &sender_over)));
        let receiver = Some(thread::spawn(move || receive(&sink, &receiver_over)));
        Ok(Self { over, sender, receiver })
    }

    /// Ends the stream, waits for what is under way, and tells what became of it.
    pub fn stop(mut self) -> Result<Report> {
        self.over.store(true, Ordering::Relaxed);
        let sent = join(self.sender.take())?;
        let arrivals = join(self.receiver.take())?;
        Ok(report(sent, &arrivals))
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn join<T>(thread: Option<JoinHandle<T>>) -> Result<T> {
    Ok(thread.context("the stream was stopped before")?.join().unwrap_or_else(|panic| resume_unwind(panic)))
}

fn send(socket: &UdpSocket, pace: Duration, over: &AtomicBool) -> u64 {
    let (mut due, mut number) = (Instant::now(), 0u64);
    while !over.load(Ordering::Relaxed) {
        // One that cannot be sent (unreachable, say) shows as lost.
        let _ = socket.send(&number.to_be_bytes());
        number += 1;
        // A sender that was kept waiting does not catch up: a burst would overflow queues.
        due = (due + pace).max(Instant::now());
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    number
}

fn receive(socket: &UdpSocket, over: &AtomicBool) -> Vec<(u64, Instant)> {
    let (mut arrivals, mut number) = (Vec::new(), [0; 8]);
    loop {
        match socket.recv(&mut number) {
            Ok(8) => arrivals.push((u64::from_be_bytes(number), Instant::now())),
            Ok(_) => {}
            Err(_) if over.load(Ordering::Relaxed) => return arrivals,
            Err(_) => {}
        }
    }
}

fn report(sent: u64, arrivals: &[(u64, Instant)]) -> Report {
    let mut seen = vec![0u64; usize::try_from(sent).unwrap_or(0)];
    for (number, _) in arrivals {
        if let Some(times) = usize::try_from(*number).ok().and_then(|number| seen.get_mut(number)) {
            *times += 1;
        }
    }
    let lost: Vec<_> =
        (0..sent).zip(&seen).filter(|(_, times)| **times == 0).map(|(number, _)| number).collect();
    let duplicates = seen.iter().map(|times| times.saturating_sub(1)).sum();
    let gaps = arrivals.windows(2).map(|pair| pair[1].1 - pair[0].1);
    Report {
        sent,
        received: sent - lost.len() as u64,
        lost,
        duplicates,
        longest_gap: gaps.max().unwrap_or_default(),
    }
}
