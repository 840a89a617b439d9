//! Reports through inotify that something in a folder has changed, but not what.
//!
//! The caller reads everything again after each report, so lost events do no harm.

use std::path::Path;

use anyhow::{Context as _, Result};
use futures::{FutureExt as _, StreamExt as _};
use inotify::{EventStream, Inotify, WatchMask};

/// Bytes of events that are read at once.
const BUFFER: usize = 4096;

/// Reports changes in the folders that were added to it.
pub(super) struct ChangeNotifier(EventStream<[u8; BUFFER]>);

impl ChangeNotifier {
    pub(super) fn new() -> Result<Self> {
        let inotify = Inotify::init().context(
            "asking for inotify; if there are too many instances raise fs.inotify.max_user_instances",
        )?;
        Ok(Self(inotify.into_event_stream([0; BUFFER]).context("waiting for inotify")?))
    }

    /// Adds the folder that has this path now.
    pub(super) fn add(&self, dir: &Path) -> Result<()> {
        let added = self.0.watches().add(dir, changes());
        added.map(drop).with_context(|| format!("watching {} with inotify", dir.display()))
    }

    /// Waits for a change.
    pub(super) async fn changed(&mut self) -> Result<()> {
        let event = self.0.next().await.context("inotify has ended")?;
        event.map(drop).context("reading from inotify")
    }

    /// Forgets all changes so far.
    pub(super) fn clear(&mut self) {
        while let Some(Some(Ok(_))) = self.0.next().now_or_never() {}
    }
}

/// A write is reported when the file is closed, not before.
fn changes() -> WatchMask {
    WatchMask::CREATE
        | WatchMask::CLOSE_WRITE
        | WatchMask::ATTRIB
        | WatchMask::MOVE
        | WatchMask::DELETE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR
}
