//! A network configuration in a file, as Kubernetes mounts a ConfigMap or as a person edits it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::change_notifier::ChangeNotifier;
use crate::atomic_file;

/// Time without changes after which the file is read: a ConfigMap is replaced in several steps.
const QUIET: Duration = Duration::from_millis(100);

/// The file is read at least this often, also where inotify reports nothing.
const PERIOD: Duration = Duration::from_secs(10);

/// The file of a network configuration.
#[derive(Debug)]
pub(super) struct ConfigFile {
    path: PathBuf,
    /// The text that was read last.
    read: Mutex<Option<String>>,
}

impl ConfigFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, read: Mutex::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the text.
    ///
    /// # Errors
    /// There is no such file, or it cannot be read.
    pub(super) fn read(&self) -> io::Result<String> {
        let text = fs::read_to_string(&self.path)?;
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.clone());
        Ok(text)
    }

    /// Waits until the file has another text than the one that was read last. A file that is missing has not changed.
    pub(super) async fn changed(&self) {
        // A folder that is replaced has to be watched again: every round begins anew.
        loop {
            let notifier = ChangeNotifier::new().and_then(|notifier| {
                notifier.add(atomic_file::folder(&self.path))?;
                Ok(notifier)
            });
            if self.is_changed() {
                return;
            }
            match notifier {
                Ok(mut notifier) => {
                    let _late_or_failed = timeout(PERIOD, notifier.changed()).await;
                    sleep(QUIET).await;
                }
                Err(_) => sleep(PERIOD).await,
            }
        }
    }

    fn is_changed(&self) -> bool {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        fs::read_to_string(&self.path).is_ok_and(|text| read.as_ref() != Some(&text))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);
    const WHILE: Duration = Duration::from_millis(300);

    /// Replaces a folder's texts as kubelet does: a new folder, and a link that is moved into place.
    fn publish(volume: &Path, version: &str, text: &str) {
        fs::create_dir(volume.join(version)).unwrap();
        fs::write(volume.join(version).join("net-conf.json"), text).unwrap();
        symlink(version, volume.join("..data_tmp")).unwrap();
        fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    }

    #[tokio::test]
    async fn a_new_version_of_a_config_map_is_a_change_and_the_same_text_is_none() {
        let volume = tempfile::tempdir().unwrap();
        publish(volume.path(), "..1", "one");
        let path = volume.path().join("net-conf.json");
        symlink("..data/net-conf.json", &path).unwrap();
        let file = ConfigFile::new(path);
        assert_eq!(file.read().unwrap(), "one");
        publish(volume.path(), "..2", "one");
        assert!(timeout(WHILE, file.changed()).await.is_err(), "the same text");
        publish(volume.path(), "..3", "two");
        timeout(SOON, file.changed()).await.unwrap();
        assert_eq!(file.read().unwrap(), "two");
    }

    #[tokio::test]
    async fn a_change_is_seen_that_comes_before_or_while_it_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let file = ConfigFile::new(folder.path().join("config"));
        fs::write(file.path(), "one").unwrap();
        file.read().unwrap();
        fs::write(file.path(), "two").unwrap();
        timeout(SOON, file.changed()).await.unwrap();
        file.read().unwrap();
        let write = async {
            tokio::task::yield_now().await;
            fs::remove_file(file.path()).unwrap();
            fs::write(file.path(), "three").unwrap();
        };
        let (changed, ()) = tokio::join!(timeout(SOON, file.changed()), write);
        changed.unwrap();
        assert_eq!(file.read().unwrap(), "three");
        fs::remove_file(file.path()).unwrap();
        assert!(timeout(WHILE, file.changed()).await.is_err(), "a missing file");
    }
}
