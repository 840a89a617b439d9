//! The keys and the requests, one function each.

use std::time::Duration;

use anyhow::{Context, bail};
use etcd_client::{
    Client, Compare, CompareOp, Error, GetOptions, GetResponse, KeyValue, PutOptions, Txn, TxnOp,
    WatchOptions, WatchStream,
};
use tokio::time::Instant;

use super::connection::Connection;
use crate::lease::policy::{Lifetime, StoredLease};
use crate::lease::{RawLease, SubnetKey, TTL};

/// Room for a million leases in one answer; gRPC's default of 4 MiB ends at some 20 000.
const MESSAGE_MAX: usize = 512 << 20;

/// flannel's directory in etcd.
pub(super) struct Store {
    pub connection: Connection,
    /// Without a slash at the end.
    pub prefix: String,
}

/// What etcd needs to know of a key in order to change it.
#[derive(Clone, Copy)]
pub(super) struct Revision {
    /// The revision at which the key was last written.
    pub modified: i64,
    /// The etcd lease with which the key ends; a reservation has none.
    pub lease: Option<i64>,
}

/// An etcd lease.
#[derive(Clone, Copy)]
pub(super) struct GrantedLease {
    pub id: i64,
    pub ends: Instant,
}

/// All keys below `subnets/`.
pub(super) struct Entries {
    pub entries: Vec<StoredLease<Revision>>,
    /// The datastore's revision that this is the state of.
    pub revision: i64,
}

/// What a key must look like for a write to happen.
pub(super) enum Expect {
    /// It does not exist; with a revision, nothing else below `subnets/` was written after it either.
    Absent { unchanged_since: Option<i64> },
    /// It was last written at this revision.
    At(i64),
}

impl Store {
    pub(super) fn config_key(&self) -> String {
        format!("{}/config", self.prefix)
    }

    fn subnets(&self) -> String {
        format!("{}/subnets/", self.prefix)
    }

    fn key(&self, subnet: SubnetKey) -> String {
        format!("{}/subnets/{subnet}", self.prefix)
    }

    /// The last part of a key below `subnets/`.
    pub(super) fn name(&self, key: &[u8]) -> String {
        String::from_utf8_lossy(key.get(self.subnets().len()..).unwrap_or_default()).into_owned()
    }

    /// The text of `<prefix>/config`.
    pub(super) async fn config(&self) -> anyhow::Result<String> {
        let key = self.config_key();
        let answer = self.get("reading the network config", key.clone()).await?;
        let Some(found) = answer.kvs().first() else {
            bail!(
                "etcd has no network config. Set it with: ETCDCTL_API=3 etcdctl --endpoints {} put {key} \
                 '{{\"Network\": \"10.244.0.0/16\", \"Backend\": {{\"Type\": \"vxlan\"}}}}'",
                self.connection.endpoints()
            );
        };
        let text = found.value_str();
        text.map(str::to_owned).with_context(|| format!("etcd's key {key} is no text"))
    }

    /// All leases and reservations, in one request.
    pub(super) async fn entries(&self) -> anyhow::Result<Entries> {
        let list = |client: Client| {
            let mut kv = client.kv_client().max_decoding_message_size(MESSAGE_MAX);
            let subnets = self.subnets();
            async move { kv.get(subnets, Some(GetOptions::new().with_prefix())).await }
        };
        let mut answer = self.connection.request("listing the leases", list).await?;
        let revision = answer.header().context("etcd's answer has no revision")?.revision();
        let entries = answer.take_kvs().into_iter().map(|kv| self.entry(kv)).collect();
        Ok(Entries { entries, revision })
    }

    /// One lease; `None` if the key does not exist.
    pub(super) async fn entry_of(&self, subnet: SubnetKey) -> anyhow::Result<Option<StoredLease<Revision>>> {
        let key = self.key(subnet);
        let mut answer = self.get(&format!("reading {key}"), key).await?;
        Ok(answer.take_kvs().pop().map(|kv| self.entry(kv)))
    }

    async fn get(&self, doing: &str, key: String) -> anyhow::Result<GetResponse> {
        let get = |client: Client| {
            let key = key.clone();
            async move { client.kv_client().get(key, None).await }
        };
        self.connection.request(doing, get).await
    }

    fn entry(&self, kv: KeyValue) -> StoredLease<Revision> {
        let version = Revision { modified: kv.mod_revision(), lease: Some(kv.lease()).filter(|id| *id != 0) };
        let lifetime = version.lease.map_or(Lifetime::Reservation, |_| Lifetime::Lease);
        let (key, value) = kv.into_key_value();
        StoredLease { lease: RawLease { key: self.name(&key), value }, lifetime, version }
    }

    /// Writes a lease if its key is as expected. Without an etcd lease it is a reservation. Returns whether it did.
    pub(super) async fn put(
        &self,
        subnet: SubnetKey,
        value: &str,
        lease: Option<i64>,
        expect: Expect,
    ) -> anyhow::Result<bool> {
        let key = self.key(subnet);
        let options = PutOptions::new().with_lease(lease.unwrap_or_default());
        let write = TxnOp::put(&*key, value, Some(options));
        let txn = Txn::new().when(self.compares(&key, expect)).and_then([write]);
        self.commit(&format!("writing {key}"), txn).await
    }

    /// Removes a lease if its key is still at this revision. Returns whether it did.
    pub(super) async fn delete(&self, subnet: SubnetKey, mod_revision: i64) -> anyhow::Result<bool> {
        let key = self.key(subnet);
        let txn = Txn::new()
            .when(self.compares(&key, Expect::At(mod_revision)))
            .and_then([TxnOp::delete(&*key, None)]);
        self.commit(&format!("removing {key}"), txn).await
    }

    fn compares(&self, key: &str, expect: Expect) -> Vec<Compare> {
        match expect {
            Expect::At(revision) => vec![Compare::mod_revision(key, CompareOp::Equal, revision)],
            Expect::Absent { unchanged_since } => {
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

    /// A new etcd lease of 24 h.
    pub(super) async fn grant(&self) -> anyhow::Result<GrantedLease> {
        let seconds = TTL.as_secs().try_into()?;
        let asked = Instant::now();
        let grant = |client: Client| async move { client.lease_client().grant(seconds, None).await };
        let answer = self.connection.request("asking for an etcd lease", grant).await?;
        Ok(GrantedLease { id: answer.id(), ends: ends(asked, answer.ttl()) })
    }

    /// Gives an etcd lease back; it ends by itself if that fails.
    pub(super) async fn revoke(&self, lease: GrantedLease) {
        let revoke = |client: Client| async move { client.lease_client().revoke(lease.id).await };
        if let Err(error) = self.connection.request("giving an unused etcd lease back", revoke).await {
            tracing::debug!("an unused etcd lease stays until it ends: {error:#}");
        }
    }

    /// Prolongs an etcd lease; `None` if it has ended.
    pub(super) async fn keep_alive(&self, id: i64) -> anyhow::Result<Option<GrantedLease>> {
        let asked = Instant::now();
        let keep_alive = |client: Client| prolong(client, id);
        let ttl = self.connection.request("prolonging our etcd lease", keep_alive).await?;
        Ok((ttl > 0).then(|| GrantedLease { id, ends: ends(asked, ttl) }))
    }

    /// Events below `subnets/` from this revision on.
    pub(super) async fn events(&self, from_revision: i64) -> anyhow::Result<WatchStream> {
        let open = |client: Client| {
            let mut watch = client.watch_client().max_decoding_message_size(MESSAGE_MAX);
            let options = WatchOptions::new().with_prefix().with_start_revision(from_revision);
            let subnets = self.subnets();
            async move { watch.watch(subnets, Some(options)).await }
        };
        self.connection.request("watching the leases", open).await
    }
}

/// Returns the seconds that the etcd lease has now, 0 if it has ended.
async fn prolong(client: Client, id: i64) -> Result<i64, Error> {
    let (mut keeper, mut answers) = match client.lease_client().keep_alive(id).await {
        Err(Error::LeaseKeepAliveError(_)) => return Ok(0),
        opened => opened?,
    };
    // The client swallows the answer to the first message, which has the seconds.
    keeper.keep_alive().await?;
    Ok(answers.message().await?.map_or(0, |answer| answer.ttl()))
}

/// Counted from the question: the answer may have been long on its way.
fn ends(asked: Instant, ttl: i64) -> Instant {
    asked + Duration::from_secs(ttl.try_into().unwrap_or_default())
}
