//! Captures: packets as they were on an interface, and what tshark makes of them.

mod decode;
mod pcap;
mod socket;

use std::os::fd::OwnedFd;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};

use crate::netns::NetNs;
pub use decode::Capture;

const MOST_FRAMES: usize = 200_000;

/// A packet as it was on the interface.
#[derive(Debug, Clone)]
pub struct Frame {
    /// When it was read.
    pub time: SystemTime,
    /// Whether it was leaving.
    pub outgoing: bool,
    /// All of it, from the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// A running capture; dropped, it ends.
#[derive(Debug)]
pub struct Running {
    over: Arc<AtomicBool>,
    frames: Arc<Mutex<Vec<Frame>>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Capture {
    /// Starts to capture. When this returns, every packet from now on is seen.
    pub fn start(netns: &NetNs, interface: &str) -> Result<Running> {
        let socket = netns.run(|| socket::open(interface));
        let socket = socket.with_context(|| format!("capture on {interface} in {}", netns.name()))?;
        let over = Arc::new(AtomicBool::new(false));
        let frames = Arc::new(Mutex::new(Vec::new()));
        let (thread_over, thread_frames) = (Arc::clone(&over), Arc::clone(&frames));
        let thread = thread::spawn(move || collect(&socket, &thread_over, &thread_frames));
        Ok(Running { over, frames, thread: Some(thread) })
    }
}

impl Running {
    /// What was seen so far, for a look while it goes on.
    pub fn so_far(&self) -> Vec<Frame> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the capture. Every packet that passed before this call is in it.
    pub fn stop(mut self) -> Result<Capture> {
        self.over.store(true, Ordering::Release);
        let thread = self.thread.take().context("the capture was stopped before")?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        Capture::save(self.so_far())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
    }
}

fn collect(socket: &OwnedFd, over: &AtomicBool, frames: &Mutex<Vec<Frame>>) -> Result<()> {
    let mut buffer = vec![0; 1 << 18];
    loop {
        // Read before the socket: what is queued when the end is called for is still taken.
        let last = over.load(Ordering::Acquire);
        while let Some(frame) = socket::receive(socket, &mut buffer, !last)? {
            let mut frames = frames.lock().unwrap_or_else(PoisonError::into_inner);
            ensure!(frames.len() < MOST_FRAMES, "a capture holds {MOST_FRAMES} packets; stop it earlier");
            frames.push(frame);
        }
        if last {
            let missed = socket::missed(socket)?;
            ensure!(missed == 0, "the capture missed {missed} packets");
            return Ok(());
        }
    }
}
