//! Listens to the running agent, and waits for one that does not run.

use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{sleep, spawn};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::report::feed::Happening;

/// Pause before the next try.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts to listen at this path, in a thread of its own. On standard error it says when the agent is away, and when it is there again.
pub(super) fn start(path: PathBuf) -> Receiver<Happening> {
    let (sender, receiver) = channel();
    spawn(move || {
        let mut is_away = false;
        loop {
            // It ends with the agent.
            let Err(error) = listen(&path, &sender, &mut is_away);
            if !is_away {
                eprintln!("no agent tells what happens; waiting for one: {error:#}");
                is_away = true;
            }
            sleep(PAUSE);
        }
    });
    receiver
}

/// Listens until the agent ends.
fn listen(path: &Path, sender: &Sender<Happening>, was_away: &mut bool) -> Result<std::convert::Infallible> {
    let stream = UnixStream::connect(path).with_context(|| format!("connecting to {}", path.display()))?;
    if std::mem::take(was_away) {
        eprintln!("an agent tells what happens");
    }
    for line in BufReader::new(stream).lines() {
        let line = line.context("reading what the agent tells")?;
        // An agent of another version may tell what this one does not know.
        if let Ok(happening) = serde_json::from_str(&line) {
            sender.send(happening).context("nobody reads")?;
        }
    }
    anyhow::bail!("the agent at {} has ended", path.display())
}
