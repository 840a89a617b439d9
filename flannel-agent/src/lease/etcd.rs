//! Leases in etcd, in flannel's layout: `<prefix>/config` and `<prefix>/subnets/<key>`.

mod access;
mod connection;
mod error;
mod store;
mod transaction;
mod watch;

use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::Context as _;
use tokio::sync::mpsc;

use super::entry::{LeaseAttrs, RawLease};
use super::manager::{EXAMPLE_CONFIG, LeaseUpdate, OwnLease, SubnetManager, parse_config};
use super::policy::{Loss, Traces};
use super::transaction::{acquire, renew};
use crate::config::NetworkConfig;
use access::MemberAccess;
pub use access::{Login, Password, TlsFiles};
use connection::Connection;
use store::{EtcdStore, StoredConfig};
use transaction::EtcdTransaction;

/// How to reach etcd.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// The members' client URLs, such as `http://127.0.0.1:2379`. One is used at a time, and the next one after a
    /// failure.
    pub endpoints: Vec<String>,
    /// The prefix of flannel's keys, such as `/coreos.com/network`.
    pub prefix: String,
    /// Certificates for `https` endpoints.
    pub tls: TlsFiles,
    /// The user to log in as.
    pub login: Option<Login>,
}

/// The datastore etcd. Connects at the first request, and again after a failure.
pub struct EtcdManager {
    store: EtcdStore,
    /// etcd's revision when the network configuration was last read.
    config_revision: AtomicI64,
}

impl EtcdManager {
    /// Returns a manager for this etcd, which need not run yet.
    #[must_use]
    pub fn new(options: EtcdOptions) -> Self {
        let prefix = options.prefix.trim_end_matches('/').to_owned();
        let access = MemberAccess { tls: options.tls, login: options.login };
        let connection = Connection::new(options.endpoints, access);
        Self { store: EtcdStore { connection, prefix }, config_revision: AtomicI64::default() }
    }
}

impl SubnetManager for EtcdManager {
    async fn network_config(&self) -> anyhow::Result<NetworkConfig> {
        let StoredConfig { text, revision } = self.store.config().await?;
        self.config_revision.store(revision, Ordering::Relaxed);
        let key = self.store.config_key();
        let text = text.with_context(|| {
            format!(
                "etcd has no network config. Set it with: ETCDCTL_API=3 etcdctl --endpoints {} put {key} \
                 '{EXAMPLE_CONFIG}'",
                self.store.connection.endpoints()
            )
        })?;
        let text = str::from_utf8(&text).with_context(|| format!("etcd's key {key} is not UTF-8 text"))?;
        parse_config(text, &format!("etcd's key {key}"))
    }

    async fn config_changed(&self) {
        watch::config_changed(&self.store, self.config_revision.load(Ordering::Relaxed) + 1).await;
    }

    async fn acquire(
        &self,
        config: &NetworkConfig,
        attrs: &LeaseAttrs,
        traces: &Traces,
    ) -> anyhow::Result<OwnLease> {
        acquire(EtcdTransaction::new(&self.store), config, attrs, traces).await
    }

    async fn renew(&self, lease: &OwnLease, attrs: &LeaseAttrs) -> anyhow::Result<Result<OwnLease, Loss>> {
        renew(EtcdTransaction::new(&self.store), lease, attrs).await
    }

    async fn leases(&self) -> anyhow::Result<Vec<RawLease>> {
        Ok(self.store.list().await?.entries.into_iter().map(|entry| entry.lease).collect())
    }

    async fn watch(&self, updates: mpsc::Sender<LeaseUpdate>) {
        super::watch::watch(&self.store, updates).await;
    }
}
