//! Writes subnet.env, again and again until that succeeds, and again when others have changed it. A file system that hangs
//! delays nothing else.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::info;

use crate::metrics::{FailureKind, Repaired};
use crate::problem::{Pace, Problem};
use crate::report::REPORT;
use crate::task::Task;

/// Period of looking whether others have changed the file.
const LOOK: Duration = Duration::from_secs(10);

/// Keeps the file as it is wanted. Dropping it ends that; the file stays.
pub struct SubnetFile {
    path: PathBuf,
    wanted: watch::Sender<Option<String>>,
    written: watch::Receiver<Option<String>>,
    _task: Task,
}

impl SubnetFile {
    /// Starts without a text: the file stays as it is until [`Self::set`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start(path: PathBuf) -> Self {
        let (wanted, texts) = watch::channel(None);
        let (done, written) = watch::channel(None);
        let task = Task::spawn(keep(path.clone(), texts, done));
        Self { path, wanted, written, _task: task }
    }

    /// Returns where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Has this text written, instead of an earlier one that is not written yet. Returns when that has begun.
    pub async fn set(&self, text: String) {
        self.wanted.send_replace(Some(text));
        tokio::task::yield_now().await;
    }

    /// Returns whether the file has the text that is wanted.
    #[must_use]
    pub fn is_written(&self) -> bool {
        *self.written.borrow() == *self.wanted.borrow()
    }

    /// Waits until the file has the text that is wanted. It may be dropped and called again.
    pub async fn written(&self) {
        let mut written = self.written.clone();
        // The task that sends lives as long as this.
        let _ = written.wait_for(|text| *text == *self.wanted.borrow()).await;
    }
}

async fn keep(
    path: PathBuf,
    mut wanted: watch::Receiver<Option<String>>,
    written: watch::Sender<Option<String>>,
) {
    let mut problem = Problem::new(FailureKind::SubnetFile, "the subnet file is written", Pace::SLOWING);
    loop {
        let text = wanted.borrow_and_update().clone();
        let is_wanted = text.is_some();
        if let Some(text) = text {
            match ensure(path.clone(), text.clone()).await {
                Ok(is_new) => {
                    if is_new && written.borrow().as_ref() == Some(&text) {
                        REPORT.repaired(Repaired::SubnetFile, 1);
                        info!("the subnet file had been changed or removed, and is as it was");
                    }
                    written.send_replace(Some(text));
                    problem.solved();
                }
                Err(error) => {
                    problem.failed([format!("writing the subnet file {}: {error}", path.display())]);
                }
            }
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = problem.wait(), if problem.next_try().is_some() => {}
            () = sleep(LOOK), if is_wanted => {}
        }
    }
}

/// Writes the text unless it is there. Returns whether it was written.
async fn ensure(path: PathBuf, text: String) -> io::Result<bool> {
    let write = move || {
        let is_there = fs::read(&path).is_ok_and(|bytes| bytes == text.as_bytes());
        if is_there { Ok(false) } else { super::write(&path, &text).map(|()| true) }
    };
    spawn_blocking(write).await?
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use tempfile::tempdir;
    use tokio::time::timeout;

    use super::*;

    /// Longer than the pause before another try.
    const LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_written_is_written_later_and_what_others_remove_is_put_back() {
        let folder = tempdir().unwrap();
        let path = folder.path().join("subnet.env");
        fs::create_dir(&path).unwrap();
        let file = SubnetFile::start(path.clone());
        assert!(file.is_written(), "nothing is wanted");
        file.set("FLANNEL_MTU=1450\n".to_owned()).await;
        assert!(timeout(Duration::from_millis(300), file.written()).await.is_err(), "over a folder");
        assert!(!file.is_written());
        file.set("FLANNEL_MTU=1400\n".to_owned()).await;
        fs::remove_dir(&path).unwrap();
        timeout(LIMIT, file.written()).await.unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "FLANNEL_MTU=1400\n");
        assert!(file.is_written());
        fs::remove_file(&path).unwrap();
        let is_back = async {
            while !path.exists() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(LIMIT, is_back).await.unwrap();
    }
}
