//! Writes our lease, if its key still is as it was seen.

use anyhow::Context;
use tokio::time::Instant;

use super::store::{Entry, Expect, Store, Term};
use crate::lease::{LeaseAttrs, OwnLease, SubnetKey, TTL};

/// What we want to write; where is found out by trying.
pub(super) struct Claim<'a> {
    store: &'a Store,
    attrs: &'a LeaseAttrs,
    value: String,
    /// An etcd lease for our key, asked for once.
    granted: Option<Term>,
}

impl<'a> Claim<'a> {
    pub(super) fn new(store: &'a Store, attrs: &'a LeaseAttrs) -> anyhow::Result<Self> {
        let value = serde_json::to_string(attrs).context("writing our lease as JSON")?;
        Ok(Self { store, attrs, value, granted: None })
    }

    /// Prolongs a lease that is ours: its value is written only where it differs, a reservation stays one. `None` if
    /// somebody has changed it since.
    pub(super) async fn keep(
        &mut self,
        subnet: SubnetKey,
        entry: &Entry,
    ) -> anyhow::Result<Option<OwnLease>> {
        let term = match entry.term {
            None => None,
            Some(id) => Some(self.prolonged(id).await?),
        };
        let unchanged = entry.lease.value == self.value.as_bytes() && entry.term == term.map(|term| term.id);
        let expect = Expect::At(entry.mod_revision);
        let kept = unchanged || self.put(subnet, term, &expect).await?;
        Ok(kept.then(|| self.own(subnet, term)))
    }

    /// Takes a subnet that nobody had at this revision. `None` if somebody has by now.
    pub(super) async fn create(
        &mut self,
        subnet: SubnetKey,
        revision: i64,
    ) -> anyhow::Result<Option<OwnLease>> {
        let term = self.grant().await?;
        // Two dual-stack keys can differ and overlap all the same: then no other key may be new either.
        let unchanged_since = subnet.v6.and(subnet.v4).map(|_| revision);
        let created = self.put(subnet, Some(term), &Expect::Absent { unchanged_since }).await?;
        Ok(created.then(|| self.own(subnet, Some(term))))
    }

    /// Gives an etcd lease back that was not needed in the end: it would stay in etcd for a day.
    pub(super) async fn end(self, lease: Option<&OwnLease>) {
        let used = lease.and_then(|lease| lease.term);
        if let Some(granted) = self.granted.filter(|granted| used != Some(granted.ends)) {
            self.store.revoke(granted).await;
        }
    }

    /// The etcd lease that our key hangs on if it is a full one, else a new one.
    async fn prolonged(&mut self, id: i64) -> anyhow::Result<Term> {
        let kept = self.store.keep_alive(id).await?;
        match kept.filter(|term| term.ends >= Instant::now() + TTL / 2) {
            Some(term) => Ok(term),
            None => self.grant().await,
        }
    }

    async fn grant(&mut self) -> anyhow::Result<Term> {
        let term = match self.granted {
            Some(term) => term,
            None => self.store.grant().await?,
        };
        Ok(*self.granted.insert(term))
    }

    async fn put(&self, subnet: SubnetKey, term: Option<Term>, expect: &Expect) -> anyhow::Result<bool> {
        self.store.put(subnet, &self.value, term.map(|term| term.id), expect).await
    }

    fn own(&self, subnet: SubnetKey, term: Option<Term>) -> OwnLease {
        OwnLease { subnet, attrs: self.attrs.clone(), term: term.map(|term| term.ends) }
    }
}
