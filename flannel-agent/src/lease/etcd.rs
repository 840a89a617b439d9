//! Leases in etcd, in flannel's layout: `<prefix>/config` and `<prefix>/subnets/<key>`.

mod access;
mod connection;
mod error;
mod store;
mod transaction;
mod watch;

use tokio::sync::mpsc;

use super::entry::{LeaseAttrs, RawLease};
use super::manager::{LeaseUpdate, OwnLease, SubnetManager, parse_config};
use super::policy::{Loss, Traces};
use super::transaction::{acquire, renew};
use super::watch::watch;
use crate::config::NetworkConfig;
use access::MemberAccess;
pub use access::{Login, Password, TlsFiles};
use connection::Connection;
use store::EtcdStore;
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
}

impl EtcdManager {
    /// Returns a manager for this etcd, which need not run yet.
    #[must_use]
    pub fn new(options: EtcdOptions) -> Self {
        let prefix = options.prefix.trim_end_matches('/').to_owned();
        let access = MemberAccess { tls: options.tls, login: options.login };
        Self { store: EtcdStore { connection: Connection::new(options.endpoints, access), prefix } }
    }
}

impl SubnetManager for EtcdManager {
    async fn network_config(&self) -> anyhow::Result<NetworkConfig> {
        let text = self.store.config().await?;
        parse_config(&text, &format!("etcd's key {}", self.store.config_key()))
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
        watch(&self.store, updates).await;
    }
}
