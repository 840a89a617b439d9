//! Follows the leases by etcd's watch. After every gap in the events the leases are listed again.

use std::ops::ControlFlow;

use anyhow::{Context, Result, anyhow, bail};
use etcd_client::{Event, EventType, WatchResponse};

use super::error::describe;
use super::store::EtcdStore;
use crate::lease::entry::RawLease;
use crate::lease::manager::LeaseUpdate;
use crate::lease::watch::{Follow, Outage, Updates};

impl Follow for EtcdStore {
    async fn follow(&self, updates: &Updates, outage: &mut Outage) -> Result<()> {
        let followed = follow(self, updates, outage).await;
        // The failure may be that of one member.
        followed.inspect_err(|_| self.connection.switch_member())
    }
}

async fn follow(store: &EtcdStore, updates: &Updates, outage: &mut Outage) -> Result<()> {
    let leases = store.list().await?;
    let mut events = store.events(leases.revision + 1).await?;
    let snapshot = leases.entries.into_iter().map(|entry| entry.lease).collect();
    if deliver(updates, LeaseUpdate::Snapshot(snapshot)).await.is_break() {
        return Ok(());
    }
    loop {
        let response = events.message().await.map_err(|error| anyhow!(describe(&error)))?;
        let response = response.context("etcd ended the watch")?;
        refuse_canceled(&response)?;
        outage.end();
        for update in response.events().iter().filter_map(|event| update(store, event)) {
            if deliver(updates, update).await.is_break() {
                return Ok(());
            }
        }
    }
}

async fn deliver(updates: &Updates, update: LeaseUpdate) -> ControlFlow<()> {
    match updates.send(update).await {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

fn refuse_canceled(response: &WatchResponse) -> Result<()> {
    if response.compact_revision() > 0 {
        bail!("etcd compacted its history up to revision {} before we read it", response.compact_revision());
    }
    if response.canceled() {
        bail!("etcd canceled the watch: {}", response.cancel_reason());
    }
    Ok(())
}

fn update(store: &EtcdStore, event: &Event) -> Option<LeaseUpdate> {
    let kv = event.kv()?;
    let key = store.name(kv.key());
    Some(match event.event_type() {
        EventType::Put => LeaseUpdate::Put(RawLease { key, value: kv.value().to_vec(), node: None }),
        EventType::Delete => LeaseUpdate::Delete(key),
    })
}
