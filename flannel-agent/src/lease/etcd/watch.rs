//! Follows leases and network configuration by etcd's watch. What may have been missed in a gap of the events is read again.

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use etcd_client::{Event, EventType, WatchResponse, WatchStream};

use tokio::time::sleep;
use tracing::debug;

use super::error::describe;
use super::store::EtcdStore;
use crate::lease::manager::LeaseUpdate;
use crate::lease::watch::{Follow, Outage, Updates};

/// Pause after a watch on the network configuration has failed. Where etcd refuses it, that is how often the configuration is read.
const CONFIG_PAUSE: Duration = Duration::from_secs(5);

/// Waits until the network configuration is written or removed at this revision or later. Also returns when it may have been:
/// once etcd answers again after the watch has failed.
pub(super) async fn config_changed(store: &EtcdStore, from_revision: i64) {
    let Err(error) = config_event(store, from_revision).await else {
        return;
    };
    debug!("no watch on the network config: {error:#}");
    loop {
        sleep(CONFIG_PAUSE).await;
        match store.config().await {
            Ok(_) => return,
            Err(error) => debug!("{error:#}"),
        }
    }
}

async fn config_event(store: &EtcdStore, from_revision: i64) -> Result<()> {
    let mut events = store.config_events(from_revision).await?;
    while next(&mut events).await?.events().is_empty() {}
    Ok(())
}

impl Follow for EtcdStore {
    async fn follow(&self, updates: &Updates, outage: &mut Outage) -> Result<()> {
        let followed = follow(self, updates, outage).await;
        // The failure may be that of one member.
        followed.inspect_err(|_| self.connection.switch_member())
    }
}

async fn follow(store: &EtcdStore, updates: &Updates, outage: &mut Outage) -> Result<()> {
    let leases = store.list().await?;
    // What the list has already comes once more. A watch that began after it would miss the deletion of a lease if that is compacted by
    // then: etcd before 3.4.36 and 3.5.18 forgets a deletion with the revision that it is compacted at.
    let mut events = store.events(leases.revision).await?;
    let snapshot = leases.entries.into_iter().map(|entry| entry.lease).collect();
    if deliver(updates, LeaseUpdate::Snapshot(snapshot)).await.is_break() {
        return Ok(());
    }
    loop {
        let response = next(&mut events).await?;
        outage.end();
        for update in response.events().iter().filter_map(|event| update(store, event)) {
            if deliver(updates, update).await.is_break() {
                return Ok(());
            }
        }
    }
}

/// Waits for the next answer of a watch.
async fn next(events: &mut WatchStream) -> Result<WatchResponse> {
    let response = events.message().await.map_err(|error| anyhow!(describe(&error)))?;
    let response = response.context("etcd ended the watch")?;
    refuse_canceled(&response)?;
    Ok(response)
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
    Some(match event.event_type() {
        EventType::Put => LeaseUpdate::Put(store.lease(kv)),
        EventType::Delete => LeaseUpdate::Delete(store.name(kv.key())),
    })
}
