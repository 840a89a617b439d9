//! Reads and writes flannel's keys, one request for each function.

use std::time::Duration;

use anyhow::Context;
use etcd_client::{
    Client, Compare, CompareOp, Error, GetOptions, GetResponse, KeyValue, PutOptions, ResponseHeader, Txn,
    TxnOp, WatchOptions, WatchStream,
};
use tokio::time::Instant;

use super::connection::Connection;
use crate::lease::entry::{LeaseEnd, RawLease, TTL};
use crate::lease::key::SubnetKey;
use crate::lease::policy::{Lifetime, StoredLease};

/// Largest answer in bytes: enough for a million leases. gRPC's default of 4 MiB is enough for some 20 000.
const MESSAGE_MAX: usize = 512 << 20;

/// flannel's keys in etcd.
pub(super) struct EtcdStore {
    pub connection: Connection,
    /// Without a slash at the end.
    pub prefix: String,
}

/// The state of a key, which a change of it depends on.
#[derive(Clone, Copy)]
pub(super) struct KeyVersion {
    /// The revision at which the key was last written.
    pub revision: i64,
    /// The etcd lease with which the key ends. A reservation has none.
    pub lease: Option<i64>,
}

/// An etcd lease and its end.
#[derive(Clone, Copy)]
pub(super) struct GrantedLease {
    pub id: i64,
    pub ends: Instant,
}

/// All keys below `subnets/`.
pub(super) struct Listing {
    pub entries: Vec<StoredLease<KeyVersion>>,
    /// etcd's revision when they were read.
    pub revision: i64,
}

/// The network configuration.
pub(super) struct StoredConfig {
    /// `None` if there is none.
    pub text: Option<Vec<u8>>,
    /// etcd's revision when it was read.
    pub revision: i64,
}

/// The state that a key must have for a write to be done.
pub(super) enum Precondition {
    /// The key does not exist. With a revision, no other key below `subnets/` was written after it either.
    Absent { unchanged_since: Option<i64> },
    /// The key was last written at this revision.
    At(i64),
}

impl EtcdStore {
    pub(super) fn config_key(&self) -> String {
        format!("{}/config", self.prefix)
    }

    fn subnets(&self) -> String {
        format!("{}/subnets/", self.prefix)
    }

    fn key(&self, subnet: SubnetKey) -> String {
        format!("{}/subnets/{subnet}", self.prefix)
    }

    /// Returns the last part of a key below `subnets/`.
    pub(super) fn name(&self, key: &[u8]) -> String {
        String::from_utf8_lossy(key.get(self.subnets().len()..).unwrap_or_default()).into_owned()
    }

    /// Reads `<prefix>/config`.
    pub(super) async fn config(&self) -> anyhow::Result<StoredConfig> {
        let mut answer = self.get("reading the network config", self.config_key()).await?;
        let revision = revision(answer.header())?;
        Ok(StoredConfig { text: answer.take_kvs().pop().map(|kv| kv.into_key_value().1), revision })
    }

    /// Reads all leases and reservations.
    pub(super) async fn list(&self) -> anyhow::Result<Listing> {
        let list = |client: Client| {
            let mut kv = client.kv_client().max_decoding_message_size(MESSAGE_MAX);
            let subnets = self.subnets();
            async move { kv.get(subnets, Some(GetOptions::new().with_prefix())).await }
        };
        let mut answer = self.connection.request("listing the leases", list).await?;
        let revision = revision(answer.header())?;
        let entries = answer.take_kvs().into_iter().map(|kv| self.stored(kv)).collect();
        Ok(Listing { entries, revision })
    }

    /// Reads one lease; `None` if the key does not exist.
    pub(super) async fn entry(&self, subnet: SubnetKey) -> anyhow::Result<Option<StoredLease<KeyVersion>>> {
        let key = self.key(subnet);
        let mut answer = self.get(&format!("reading {key}"), key).await?;
        Ok(answer.take_kvs().pop().map(|kv| self.stored(kv)))
    }

    async fn get(&self, doing: &str, key: String) -> anyhow::Result<GetResponse> {
        let get = |client: Client| {
            let key = key.clone();
            async move { client.kv_client().get(key, None).await }
        };
        self.connection.request(doing, get).await
    }

    fn stored(&self, kv: KeyValue) -> StoredLease<KeyVersion> {
        let version =
            KeyVersion { revision: kv.mod_revision(), lease: Some(kv.lease()).filter(|id| *id != 0) };
        let lifetime = version.lease.map_or(Lifetime::Reservation, |_| Lifetime::Lease);
        StoredLease { lease: self.lease(&kv), lifetime, version }
    }

    /// Returns the lease or reservation of a key.
    pub(super) fn lease(&self, kv: &KeyValue) -> RawLease {
        let end = if kv.lease() == 0 { LeaseEnd::Never } else { LeaseEnd::Unknown };
        RawLease { key: self.name(kv.key()), value: kv.value().to_vec(), node: None, end }
    }

    /// Writes a lease, or a reservation if there is no etcd lease. Returns false if the key is not as expected.
    pub(super) async fn put(
        &self,
        subnet: SubnetKey,
        value: &str,
        lease: Option<i64>,
        expected: Precondition,
    ) -> anyhow::Result<bool> {
        let key = self.key(subnet);
        let options = PutOptions::new().with_lease(lease.unwrap_or_default());
        let write = TxnOp::put(&*key, value, Some(options));
        let txn = Txn::new().when(self.compares(&key, expected)).and_then([write]);
        self.commit(&format!("writing {key}"), txn).await
    }

    /// Removes a lease. Returns false if its key was written after this revision.
    pub(super) async fn delete(&self, subnet: SubnetKey, revision: i64) -> anyhow::Result<bool> {
        let key = self.key(subnet);
        let txn = Txn::new()
            .when(self.compares(&key, Precondition::At(revision)))
            .and_then([TxnOp::delete(&*key, None)]);
        self.commit(&format!("removing {key}"), txn).await
    }

    fn compares(&self, key: &str, expected: Precondition) -> Vec<Compare> {
        match expected {
            Precondition::At(revision) => vec![Compare::mod_revision(key, CompareOp::Equal, revision)],
            Precondition::Absent { unchanged_since } => {
                let absent = Compare::create_revision(key, CompareOp::Equal, 0);
                let unchanged = |revision| {
                    Compare::mod_revision(self.subnets(), CompareOp::Less, revision + 1).with_prefix()
                };
                [absent].into_iter().chain(unchanged_since.map(unchanged)).collect()
            }
        }
    }

    async fn commit(&self, doing: &str, txn: Txn) -> anyhow::Result<bool> {
        let commit = |client: Client| {
            let txn = txn.clone();
            async move { client.kv_client().txn(txn).await }
        };
        Ok(self.connection.request(doing, commit).await?.succeeded())
    }

    /// Creates an etcd lease with the life [`TTL`].
    pub(super) async fn grant(&self) -> anyhow::Result<GrantedLease> {
        let seconds = TTL.as_secs().try_into()?;
        let asked = Instant::now();
        let grant = |client: Client| async move { client.lease_client().grant(seconds, None).await };
        let answer = self.connection.request("asking for an etcd lease", grant).await?;
        Ok(GrantedLease { id: answer.id(), ends: ends(asked, answer.ttl()) })
    }

    /// Ends an etcd lease. It ends by itself if that fails.
    pub(super) async fn revoke(&self, lease: GrantedLease) {
        let revoke = |client: Client| async move { client.lease_client().revoke(lease.id).await };
        if let Err(error) = self.connection.request("revoking an unused etcd lease", revoke).await {
            tracing::debug!("an unused etcd lease stays until it ends: {error:#}");
        }
    }

    /// Renews an etcd lease; `None` if it has ended.
    pub(super) async fn keep_alive(&self, id: i64) -> anyhow::Result<Option<GrantedLease>> {
        let asked = Instant::now();
        let keep_alive = |client: Client| keep_alive(client, id);
        let ttl = self.connection.request("renewing our etcd lease", keep_alive).await?;
        Ok((ttl > 0).then(|| GrantedLease { id, ends: ends(asked, ttl) }))
    }

    /// Watches the keys below `subnets/` from this revision on.
    pub(super) async fn events(&self, from_revision: i64) -> anyhow::Result<WatchStream> {
        let options = WatchOptions::new().with_prefix().with_start_revision(from_revision);
        self.watch("watching the leases", self.subnets(), options).await
    }

    /// Watches `<prefix>/config` from this revision on.
    pub(super) async fn config_events(&self, from_revision: i64) -> anyhow::Result<WatchStream> {
        let options = WatchOptions::new().with_start_revision(from_revision);
        self.watch("watching the network config", self.config_key(), options).await
    }

    async fn watch(&self, doing: &str, keys: String, options: WatchOptions) -> anyhow::Result<WatchStream> {
        let open = |client: Client| {
            let mut watch = client.watch_client().max_decoding_message_size(MESSAGE_MAX);
            let (keys, options) = (keys.clone(), options.clone());
            async move { watch.watch(keys, Some(options)).await }
        };
        self.connection.request(doing, open).await
    }
}

fn revision(header: Option<&ResponseHeader>) -> anyhow::Result<i64> {
    Ok(header.context("etcd's answer has no revision")?.revision())
}

/// Renews an etcd lease. Returns its life in seconds, 0 if it has ended.
async fn keep_alive(client: Client, id: i64) -> Result<i64, Error> {
    let (mut keeper, mut answers) = match client.lease_client().keep_alive(id).await {
        Err(Error::LeaseKeepAliveError(_)) => return Ok(0),
        opened => opened?,
    };
    // etcd-client drops the answer to its first message, which has the seconds.
    keeper.keep_alive().await?;
    Ok(answers.message().await?.map_or(0, |answer| answer.ttl()))
}

/// Returns the end of an etcd lease. It is counted from the request, as the answer may have come late.
fn ends(asked: Instant, ttl: i64) -> Instant {
    asked + Duration::from_secs(ttl.try_into().unwrap_or_default())
}
