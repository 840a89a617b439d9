//! Reads and writes the files of the folder, one operation for each function.

use std::fs::{self, File, FileTimes, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use tokio::time::Instant;

use super::lifetime::Ends;
use crate::atomic_file;
use crate::lease::backoff::Backoff;
use crate::lease::config_file::ConfigFile;
use crate::lease::entry::{LeaseEnd, RawLease};
use crate::lease::key::SubnetKey;
use crate::lease::manager::EXAMPLE_CONFIG;
use crate::lease::policy::{Lifetime, StoredLease};

/// Most bytes that are read of a file. Leases have some 200.
const VALUE_MAX: u64 = 64 << 10;
/// Pause between attempts to take the lock, at first and at most.
const LOCK_PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));
/// Longest wait for the lock, which agents hold for milliseconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Mode of the lock. Whoever can read a file can hold a lock of it.
const LOCK_MODE: u32 = 0o600;

/// The folder with the network config and the leases.
pub(super) struct LeaseFolder {
    pub dir: PathBuf,
    pub config: ConfigFile,
    ends: Mutex<Ends>,
}

impl LeaseFolder {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { config: ConfigFile::new(dir.join("config")), dir, ends: Mutex::default() }
    }

    /// Reads `config`.
    pub(super) fn config(&self) -> Result<String> {
        self.config.read().map_err(|error| self.no_config(error))
    }

    fn no_config(&self, error: io::Error) -> anyhow::Error {
        let (dir, path) = (self.dir.display(), self.config.path());
        if error.kind() != ErrorKind::NotFound {
            return anyhow::Error::from(error).context(format!("reading {}", path.display()));
        }
        anyhow::anyhow!(
            "there is no network config in {dir}. Write it with: mkdir -p {dir} && echo '{EXAMPLE_CONFIG}' > {}",
            path.display()
        )
    }

    /// Returns the path of the folder of the leases.
    pub(super) fn subnets_path(&self) -> PathBuf {
        self.dir.join("subnets")
    }

    /// Makes the folder of the leases if there is a network config without one. Returns its path.
    pub(super) fn subnets(&self) -> Result<PathBuf> {
        fs::metadata(self.config.path()).map_err(|error| self.no_config(error))?;
        let subnets = self.subnets_path();
        fs::create_dir_all(&subnets).with_context(|| format!("making {}", subnets.display()))?;
        Ok(subnets)
    }

    fn path(&self, subnet: SubnetKey) -> PathBuf {
        self.subnets_path().join(subnet.to_string())
    }

    /// Reads all leases and reservations, ended ones too, sorted by name.
    pub(super) fn entries(&self) -> Result<Vec<StoredLease<()>>> {
        let subnets = self.subnets()?;
        let mut entries = Vec::new();
        for file in fs::read_dir(&subnets).with_context(|| format!("listing {}", subnets.display()))? {
            let file = file.with_context(|| format!("listing {}", subnets.display()))?;
            let name = file.file_name().to_string_lossy().into_owned();
            if is_visible(&name) {
                entries.extend(self.read_entry(&file.path(), name));
            }
        }
        entries.sort_by(|one, other| one.lease.key.cmp(&other.lease.key));
        let is_there = |name: &str| {
            entries.binary_search_by(|entry: &StoredLease<()>| entry.lease.key.as_str().cmp(name)).is_ok()
        };
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).retain(is_there);
        Ok(entries)
    }

    /// Reads one lease; `None` if there is no such file.
    pub(super) fn entry(&self, subnet: SubnetKey) -> Result<Option<StoredLease<()>>> {
        self.subnets()?;
        Ok(self.read_entry(&self.path(subnet), subnet.to_string()))
    }

    /// Reads a file of `subnets/`; `None` if there is none. A file that cannot be read is a reservation without a value:
    /// its name is taken.
    fn read_entry(&self, path: &Path, key: String) -> Option<StoredLease<()>> {
        let read = read(path).and_then(|(value, metadata)| {
            let (lifetime, end) = self.lifetime(&key, &metadata)?;
            Ok((value, lifetime, end))
        });
        let (value, lifetime, end) = match read {
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::debug!("reading {path:?}: {error}");
                (Vec::new(), Lifetime::Reservation, LeaseEnd::Never)
            }
        };
        Some(StoredLease { lease: RawLease { end, ..RawLease::new(key, value) }, lifetime, version: () })
    }

    fn lifetime(&self, name: &str, metadata: &Metadata) -> io::Result<(Lifetime, LeaseEnd)> {
        let (permissions, modified) = (metadata.permissions().mode(), metadata.modified()?);
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let lifetime = ends.lifetime(name, permissions, modified, SystemTime::now(), Instant::now());
        Ok((lifetime, lifetime.end(modified)))
    }

    /// Locks out other agents that would change something, until the result is dropped.
    pub(super) async fn lock(&self) -> Result<File> {
        self.subnets()?;
        let path = self.dir.join("lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(LOCK_MODE).open(&path);
        let file = file.with_context(|| format!("opening {}", path.display()))?;
        if file.metadata()?.permissions().mode() & 0o777 != LOCK_MODE {
            // It may be another agent's.
            let _ = file.set_permissions(Permissions::from_mode(LOCK_MODE));
        }
        let mut pause = Backoff::new(LOCK_PAUSE.0, LOCK_PAUSE.1);
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => pause.wait().await,
                Err(TryLockError::WouldBlock) => bail!(
                    "another process has held {0} for {1} s; see which: fuser -v {0}",
                    path.display(),
                    LOCK_TIMEOUT.as_secs()
                ),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("locking {}", path.display()));
                }
            }
        }
    }

    /// Writes a lease that has no file yet. The lock does not keep those out who distribute files.
    pub(super) fn create(&self, subnet: SubnetKey, value: &str) -> Result<()> {
        let path = self.path(subnet);
        let written = atomic_file::staged(&path, value.as_bytes(), Lifetime::Lease.permissions())
            .and_then(|file| Ok(file.persist_noclobber(&path)?))
            .and_then(|_| atomic_file::sync_name(&path));
        written.with_context(|| format!("creating {}", path.display()))
    }

    /// Writes a lease or a reservation in place of the one that is there.
    pub(super) fn replace(&self, subnet: SubnetKey, value: &str, lifetime: Lifetime) -> Result<()> {
        let path = self.path(subnet);
        let written = atomic_file::replace(&path, value.as_bytes(), lifetime.permissions());
        written.with_context(|| format!("writing {}", path.display()))
    }

    /// Sets the time of a lease's file to now.
    pub(super) fn touch(&self, subnet: SubnetKey) -> Result<()> {
        let path = self.path(subnet);
        let now = SystemTime::now();
        // Both, as touch(1) does: if only one is set, inotify reports a write or a read, not a change of attributes.
        let times = FileTimes::new().set_accessed(now).set_modified(now);
        let touched = File::open(&path).and_then(|file| file.set_times(times));
        touched.with_context(|| format!("setting the time of {}", path.display()))
    }

    /// Removes a lease, if it is still there.
    pub(super) fn remove(&self, subnet: SubnetKey) -> Result<()> {
        let path = self.path(subnet);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Returns whether a file with this name may be a lease. Files with hidden names are temporary files of editors, of
/// rsync and of agents.
fn is_visible(name: &str) -> bool {
    !name.starts_with('.')
}

fn read(path: &Path) -> io::Result<(Vec<u8>, Metadata)> {
    // Does not wait for the writer of a FIFO.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    let mut value = Vec::new();
    file.take(VALUE_MAX).read_to_end(&mut value)?;
    Ok((value, metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_files_are_not_looked_at() {
        for (name, visible) in [
            ("10.5.52.0-24", true),
            ("10.244.6.0-24&fd44:0:0:4b::-64", true),
            ("README", true),
            ("10.5.52.0-24~", true),
            (".10.5.52.0-24.swp", false),
            (".10.5.52.0-24.Xq3fZa", false),
            (".tmpXq3fZa", false),
        ] {
            assert_eq!(is_visible(name), visible, "{name}");
        }
    }
}
