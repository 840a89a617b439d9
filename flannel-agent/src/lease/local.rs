//! Leases as files, for use without etcd and Kubernetes: by agents of one machine that share a folder, or in small
//! clusters that distribute files by other means.
//!
//! ```text
//! DIR/config                  the network config
//! DIR/subnets/10.5.52.0-24    a lease: named like the last part of its key in etcd, with the value that it has there
//! DIR/lock                    locked by an agent while it changes subnets/
//! ```
//!
//! **When a lease ends** depends on what `ls -l` shows:
//!
//! - `-r--r--r--` A file that cannot be written is an agent's lease. It ends 24 h after the time of the file. The agent
//!   renews it by setting that time to now.
//! - `-rw-r--r--` A file that can be written is an administrator's reservation. It never ends, and no agent renews or
//!   removes it. The node with its `PublicIP` takes it, and writes its value.
//!
//! So `chmod u+w` turns a lease into a reservation. A copy with the same mode and time (`rsync -a`) is the same lease,
//! with the same end. A copy that can be written is a reservation. A running agent asks the clock when it sees the time of
//! a file first; from then on it counts the time that passes, so that no lease ends because the clock is set. No agent uses
//! an ended lease any more, except that its own node may renew it. Its file is removed, under the lock, by the next agent
//! that takes a subnet.
//!
//! **Changes** are reported by inotify, and found within 10 s where inotify reports nothing (NFS). Hidden files are
//! ignored. Every other file that is not a lease is logged once. Files may appear, change and vanish in any way: they
//! are read once nothing has changed for a moment. While there is no `DIR/config` the folder is not used, and routes
//! stay as they are: it may not be mounted yet, or is being replaced.

mod folder;
mod lifetime;
mod transaction;
mod watch;

use std::path::PathBuf;

use tokio::sync::mpsc;

use super::entry::{LeaseAttrs, RawLease};
use super::manager::{LeaseUpdate, OwnLease, SubnetManager, parse_config};
use super::policy::{Loss, Traces};
use super::transaction::{acquire, renew};
use crate::config::NetworkConfig;
use folder::LeaseFolder;
use transaction::LocalTransaction;

/// The datastore that is a folder.
pub struct LocalManager {
    folder: LeaseFolder,
}

impl LocalManager {
    /// Returns a manager for this folder, which need not exist yet.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { folder: LeaseFolder::new(dir) }
    }
}

impl SubnetManager for LocalManager {
    async fn network_config(&self) -> anyhow::Result<NetworkConfig> {
        parse_config(&self.folder.config()?, &self.folder.config.path().display().to_string())
    }

    async fn config_changed(&self) {
        self.folder.config.changed().await;
    }

    async fn acquire(
        &self,
        config: &NetworkConfig,
        attrs: &LeaseAttrs,
        traces: &Traces,
    ) -> anyhow::Result<OwnLease> {
        acquire(LocalTransaction::begin(&self.folder).await?, config, attrs, traces).await
    }

    async fn renew(&self, lease: &OwnLease, attrs: &LeaseAttrs) -> anyhow::Result<Result<OwnLease, Loss>> {
        renew(LocalTransaction::begin(&self.folder).await?, lease, attrs).await
    }

    async fn leases(&self) -> anyhow::Result<Vec<RawLease>> {
        watch::in_force(&self.folder)
    }

    async fn watch(&self, updates: mpsc::Sender<LeaseUpdate>) {
        super::watch::watch(&self.folder, updates).await;
    }
}
