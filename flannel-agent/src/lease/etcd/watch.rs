//! Follows the leases: a snapshot, then its changes, then a snapshot again after every gap.

use std::ops::ControlFlow;

use anyhow::{Context, anyhow, bail};
use etcd_client::{Event, EventType, WatchResponse};
use tokio::sync::mpsc;

use super::connection::plain;
use super::store::Store;
use crate::lease::outage::Outage;
use crate::lease::{LeaseUpdate, RawLease};

type Updates = mpsc::Sender<LeaseUpdate>;

/// See [`SubnetManager::watch`](crate::lease::SubnetManager::watch).
pub(super) async fn watch(store: &Store, updates: Updates) {
    let mut outage = Outage::none();
    let follow = async {
        while let Err(error) = follow(store, &updates, &mut outage).await {
            outage.failed(&error);
            store.connection.move_on();
            outage.wait().await;
        }
    };
    tokio::select! {
        () = follow => {}
        () = updates.closed() => {}
    }
}

/// Delivers until `updates` is closed.
async fn follow(store: &Store, updates: &Updates, outage: &mut Outage) -> anyhow::Result<()> {
    let leases = store.entries().await?;
    let mut events = store.events(leases.revision + 1).await?;
    let snapshot = leases.entries.into_iter().map(|entry| entry.lease).collect();
    if deliver(updates, LeaseUpdate::Snapshot(snapshot)).await.is_break() {
        return Ok(());
    }
    loop {
        let response = events.message().await.map_err(|error| anyhow!(plain(&error)))?;
        let response = response.context("etcd ended the watch")?;
        refuse_canceled(&response)?;
        outage.over();
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

fn refuse_canceled(response: &WatchResponse) -> anyhow::Result<()> {
    if response.compact_revision() > 0 {
        bail!("etcd compacted its history up to revision {} before we read it", response.compact_revision());
    }
    if response.canceled() {
        bail!("etcd canceled the watch: {}", response.cancel_reason());
    }
    Ok(())
}

fn update(store: &Store, event: &Event) -> Option<LeaseUpdate> {
    let kv = event.kv()?;
    let key = store.name(kv.key());
    Some(match event.event_type() {
        EventType::Put => LeaseUpdate::Put(RawLease { key, value: kv.value().to_vec() }),
        EventType::Delete => LeaseUpdate::Delete(key),
    })
}
