//! `EVENTS`: what the programs report.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use flannel_common::abi;
use flannel_common::event::Event;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::take;

/// The reading end of the ring. There is only one.
pub struct Events(AsyncFd<RingBuf<MapData>>);

impl Events {
    /// Takes the ring out of the loaded object.
    ///
    /// # Errors
    /// It was taken already.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open(ebpf: &mut Ebpf) -> Result<Self> {
        let ring = RingBuf::try_from(take(ebpf, abi::EVENTS)?)?;
        // SAFETY: the ring owns its file descriptor, and returns the same one until it is dropped.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        Ok(Self(ring.context("waiting for the BPF ring EVENTS")?))
    }

    /// Waits for the next event. The future may be dropped and made again; no event gets lost.
    pub async fn next(&mut self) -> Event {
        while let Ok(mut ready) = self.0.readable_mut().await {
            while let Some(record) = ready.get_inner_mut().next() {
                if let Some(event) = Event::read(&record) {
                    return event;
                }
            }
            ready.clear_ready();
        }
        // The ring ends with the runtime.
        std::future::pending().await
    }
}
