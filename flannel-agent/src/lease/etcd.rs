//! Leases in etcd, in flannel's layout: `<prefix>/config` and `<prefix>/subnets/<key>`.

mod access;
mod connection;
mod error;
mod store;
mod transaction;
mod watch;

use anyhow::Context;
use tokio::sync::mpsc;

use super::transaction::{acquire, renew};
use super::watch::watch;
use super::{LeaseAttrs, LeaseUpdate, Loss, OwnLease, RawLease, SubnetKey, SubnetManager};
use crate::config::NetworkConfig;
use access::Access;
pub use access::{Login, TlsFiles};
use connection::Connection;
use store::Store;
use transaction::EtcdTransaction;

/// How to reach etcd.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// The members' client URLs, such as `http://127.0.0.1:2379`. One is used at a time; any failure moves on
    /// to the next.
    pub endpoints: Vec<String>,
    /// Directory of our keys, such as `/coreos.com/network`.
    pub prefix: String,
    /// Certificates for `https` endpoints.
    pub tls: TlsFiles,
    /// The user that we are; `None` where etcd asks for none.
    pub login: Option<Login>,
}

/// The datastore etcd. Connects when first asked for something, and again after every failure.
pub struct EtcdManager {
    store: Store,
}

impl EtcdManager {
    /// A manager for this etcd, which need not be up yet.
    #[must_use]
    pub fn new(options: EtcdOptions) -> Self {
        let prefix = options.prefix.trim_end_matches('/').to_owned();
        let access = Access { tls: options.tls, login: options.login };
        Self { store: Store { connection: Connection::new(options.endpoints, access), prefix } }
    }
}

impl SubnetManager for EtcdManager {
    async fn network_config(&self) -> anyhow::Result<NetworkConfig> {
        let text = self.store.config().await?;
        let key = self.store.config_key();
        NetworkConfig::parse(&text).with_context(|| {
            format!("the network config in etcd's key {key} cannot be used; correct it there")
        })
    }

    async fn acquire(
        &self,
        config: &NetworkConfig,
        attrs: &LeaseAttrs,
        previous: Option<SubnetKey>,
    ) -> anyhow::Result<OwnLease> {
        acquire(EtcdTransaction::new(&self.store), config, attrs, previous).await
    }

    async fn renew(&self, lease: &OwnLease, attrs: &LeaseAttrs) -> anyhow::Result<Result<OwnLease, Loss>> {
        renew(EtcdTransaction::new(&self.store), lease, attrs).await
    }

    async fn leases(&self) -> anyhow::Result<Vec<RawLease>> {
        Ok(self.store.entries().await?.entries.into_iter().map(|entry| entry.lease).collect())
    }

    async fn watch(&self, updates: mpsc::Sender<LeaseUpdate>) {
        watch(&self.store, updates).await;
    }
}
