//! Captures packets on an interface, and decodes them with tshark.

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

/// A captured frame.
#[derive(Debug, Clone)]
pub struct CapturedFrame {
    /// When it was read.
    pub time: SystemTime,
    /// True if it was leaving by the interface.
    pub outgoing: bool,
    /// All bytes, from the Ethernet header on.
    pub bytes: Vec<u8>,
}

/// A running capture. Dropping it ends it.
#[derive(Debug)]
pub struct RunningCapture {
    stop: Arc<AtomicBool>,
    frames: Arc<Mutex<Vec<CapturedFrame>>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Capture {
    /// Starts a capture. Every packet from the return of this function on is captured.
    pub fn start(netns: &NetNs, interface: &str) -> Result<RunningCapture> {
        let socket = netns.run(|| socket::open(interface));
        let socket = socket.with_context(|| format!("capture on {interface} in {}", netns.name()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let frames = Arc::new(Mutex::new(Vec::new()));
        let (thread_stop, thread_frames) = (Arc::clone(&stop), Arc::clone(&frames));
        let thread = thread::spawn(move || collect(&socket, &thread_stop, &thread_frames));
        Ok(RunningCapture { stop, frames, thread: Some(thread) })
    }
}

impl RunningCapture {
    /// Returns the frames captured so far; the capture goes on.
    pub fn so_far(&self) -> Vec<CapturedFrame> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the capture. It contains every packet that passed before this call.
    pub fn stop(mut self) -> Result<Capture> {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take().context("the capture was stopped before")?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        Capture::save(self.so_far())
    }
}

impl Drop for RunningCapture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn collect(socket: &OwnedFd, stop: &AtomicBool, frames: &Mutex<Vec<CapturedFrame>>) -> Result<()> {
    let mut buffer = vec![0; 1 << 18];
    loop {
        // Read before the socket, so that frames queued at the stop are still taken.
        let last = stop.load(Ordering::Acquire);
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
