//! Keeps what is known of the network in a file, for the next start. Writing delays nothing else.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use crate::lease::LastKnown;

/// Shortest time from a change to its writing, so that a burst is written once. The first change is written at once.
const PAUSE: Duration = Duration::from_millis(200);

/// The pause is this many times as long as the last write, so that writing takes at most 1 % of a CPU.
const PAUSE_PER_WRITE: u32 = 100;

/// Longest pause: a write that takes long waits for the disk.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Writes what is known some time after it has changed.
pub(in crate::daemon) struct Recorder {
    file: Arc<File>,
    /// When changes are to be written that are not written yet.
    due: Option<Instant>,
    pause: Duration,
    /// The write that runs. It returns how long it took.
    running: Option<JoinHandle<Duration>>,
    /// The number of writes so far.
    writes: u64,
}

struct File {
    path: PathBuf,
    datastore: String,
    written: Mutex<Written>,
}

/// What has become of the writes.
#[derive(Default)]
struct Written {
    /// Number of the newest one.
    newest: u64,
    failed: bool,
}

impl Recorder {
    /// `datastore`: where the leases come from, see [`LastKnown::read`].
    pub(in crate::daemon) fn new(path: PathBuf, datastore: String) -> Self {
        let file = Arc::new(File { path, datastore, written: Mutex::default() });
        Self { file, due: None, pause: Duration::ZERO, running: None, writes: 0 }
    }

    /// Something has changed.
    pub(super) fn changed(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + self.pause);
    }

    /// Returns whether changes wait to be written.
    pub(super) const fn is_behind(&self) -> bool {
        self.due.is_some()
    }

    /// Waits until [`Self::write`] is to be called. It may be dropped and called again.
    pub(super) async fn due(&mut self) {
        if let Some(running) = &mut self.running {
            let took = running.await.unwrap_or_default();
            self.running = None;
            self.pause = (took * PAUSE_PER_WRITE).clamp(PAUSE, LONGEST_PAUSE);
        }
        match self.due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// Writes beside everything else.
    pub(super) fn write(&mut self, known: LastKnown) {
        let (file, number) = self.next();
        self.running = Some(spawn_blocking(move || file.write(number, &known)));
    }

    /// Writes at once.
    pub(super) fn write_now(&mut self, known: &LastKnown) {
        let (file, number) = self.next();
        file.write(number, known);
    }

    fn next(&mut self) -> (Arc<File>, u64) {
        self.due = None;
        self.writes += 1;
        (Arc::clone(&self.file), self.writes)
    }
}

impl File {
    /// Writes, unless something newer is written already. Returns how long it took. The first failure is logged.
    fn write(&self, number: u64, known: &LastKnown) -> Duration {
        let start = std::time::Instant::now();
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if number > written.newest {
            written.newest = number;
            let result = known.write(&self.path, &self.datastore);
            if let Err(error) = &result
                && !written.failed
            {
                let path = self.path.display();
                warn!(
                    "writing {path}: {error:#}; an agent that starts without the datastore will know no peers"
                );
            }
            written.failed = result.is_err();
        }
        start.elapsed()
    }
}
