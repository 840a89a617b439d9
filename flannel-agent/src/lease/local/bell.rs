//! inotify as a bell: it says that something has changed, not what. Whoever hears it looks again, so that lost
//! events do no harm.

use std::path::Path;

use anyhow::{Context as _, Result};
use futures::{FutureExt as _, StreamExt as _};
use inotify::{EventStream, Inotify, WatchMask};

/// Bytes of events that are read at once.
const BUFFER: usize = 4096;

/// Rings when something has changed in the folders.
pub(super) struct Bell(EventStream<[u8; BUFFER]>);

impl Bell {
    pub(super) fn new() -> Result<Self> {
        let inotify = Inotify::init().context(
            "asking for inotify; if there are too many instances raise fs.inotify.max_user_instances",
        )?;
        Ok(Self(inotify.into_event_stream([0; BUFFER]).context("waiting for inotify")?))
    }

    /// Rings from now on for what changes in the folder that has this path now.
    pub(super) fn listen(&self, dir: &Path) -> Result<()> {
        let added = self.0.watches().add(dir, changes());
        added.map(drop).with_context(|| format!("watching {} with inotify", dir.display()))
    }

    /// Returns when it rings.
    pub(super) async fn rung(&mut self) -> Result<()> {
        let event = self.0.next().await.context("inotify has ended")?;
        event.map(drop).context("reading from inotify")
    }

    /// Forgets how often it has rung until now.
    pub(super) fn silence(&mut self) {
        while let Some(Some(Ok(_))) = self.0.next().now_or_never() {}
    }
}

/// Writing counts when it has ended.
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
