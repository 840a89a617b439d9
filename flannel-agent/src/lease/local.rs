//! Leases as files, for where there is no etcd and no Kubernetes: agents of one machine that share a folder, and
//! small clusters whose files are distributed by other means.
//!
//! ```text
//! DIR/config                  the network config
//! DIR/subnets/10.5.52.0-24    a lease: named like the last part of its key in etcd, with the value that it has there
//! DIR/lock                    held by an agent while it changes something in subnets/
//! ```
//!
//! **When a lease ends** is what `ls -l` shows:
//!
//! - `-r--r--r--` A file that nobody may write is an agent's lease. It ends 24 h after the time of the file. Its
//!   agent renews it by setting that time anew.
//! - `-rw-r--r--` A file that somebody may write was put there by you: a reservation. It never ends, and no agent
//!   renews or removes it. The node whose `PublicIP` it has takes it, and writes its value.
//!
//! So `chmod u+w` makes a reservation of a lease. A copy that keeps mode and time (`rsync -a`) is the same lease, with
//! the same end; a copy that can be written is a reservation. An ended lease counts nowhere any more; its file is
//! removed, under the lock, by the next agent that takes a subnet. Only its own node may take it up again.
//!
//! **What changes** is told by inotify, and looked for every 10 s where inotify tells nothing (NFS). Files whose names
//! begin with a dot are not looked at; what else is there and no lease gets one warning. Files may come, change and
//! go in any way: what counts is the state once they are at rest for a moment. As long as `DIR/config` is not there
//! the folder is no store, and routes stay as they are: it may have to be mounted, or be about to be replaced.

mod change_notifier;
mod lifetime;
mod store;
mod transaction;
mod watch;

use std::path::PathBuf;

use anyhow::Context as _;
use tokio::sync::mpsc;

use super::transaction::{acquire, renew};
use super::{LeaseAttrs, LeaseUpdate, Loss, OwnLease, RawLease, SubnetKey, SubnetManager};
use crate::config::NetworkConfig;
use store::Store;
use transaction::LocalTransaction;

/// The datastore that is a folder.
pub struct LocalManager {
    store: Store,
}

impl LocalManager {
    /// A manager for this folder, which need not be there yet.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { store: Store { dir } }
    }
}

impl SubnetManager for LocalManager {
    async fn network_config(&self) -> anyhow::Result<NetworkConfig> {
        let (text, path) = (self.store.config()?, self.store.config_path());
        NetworkConfig::parse(&text).with_context(|| {
            format!("the network config in {} cannot be used; correct it there", path.display())
        })
    }

    async fn acquire(
        &self,
        config: &NetworkConfig,
        attrs: &LeaseAttrs,
        previous: Option<SubnetKey>,
    ) -> anyhow::Result<OwnLease> {
        acquire(LocalTransaction::begin(&self.store).await?, config, attrs, previous).await
    }

    async fn renew(&self, lease: &OwnLease, attrs: &LeaseAttrs) -> anyhow::Result<Result<OwnLease, Loss>> {
        renew(LocalTransaction::begin(&self.store).await?, lease, attrs).await
    }

    async fn leases(&self) -> anyhow::Result<Vec<RawLease>> {
        watch::in_force(&self.store)
    }

    async fn watch(&self, updates: mpsc::Sender<LeaseUpdate>) {
        super::watch::watch(&self.store, updates).await;
    }
}
