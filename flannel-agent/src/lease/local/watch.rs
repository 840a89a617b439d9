//! Follows the leases: whenever something may have changed all of them are read, and told if they differ.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::bell::Bell;
use super::store::Store;
use crate::lease::outage::Outage;
use crate::lease::{LeaseUpdate, RawLease};

/// Files that are changing get this long to come to rest.
const REST: Duration = Duration::from_millis(50);
/// How often leases are read unasked: they end without a sound, and some file systems tell nothing of other machines.
const LOOK: Duration = Duration::from_secs(10);

type Updates = mpsc::Sender<LeaseUpdate>;

/// See [`SubnetManager::watch`](crate::lease::SubnetManager::watch).
pub(super) async fn watch(store: &Store, updates: Updates) {
    let mut outage = Outage::none();
    let follow = async {
        while let Err(error) = follow(store, &updates, &mut outage).await {
            outage.failed(&error);
            outage.wait().await;
        }
    };
    tokio::select! {
        () = follow => {}
        () = updates.closed() => {}
    }
}

/// Delivers until `updates` is closed.
async fn follow(store: &Store, updates: &Updates, outage: &mut Outage) -> Result<()> {
    let mut bell = Bell::new()?;
    let mut told = None;
    loop {
        // Each time anew: a folder that was put in the place of another is heard from now on.
        for dir in [&store.dir, &store.subnets()?] {
            bell.listen(dir)?;
        }
        let leases = in_force(store)?;
        outage.over();
        if told.as_ref() != Some(&leases) {
            if updates.send(LeaseUpdate::Snapshot(leases.clone())).await.is_err() {
                return Ok(());
            }
            told = Some(leases);
        }
        if let Ok(rung) = timeout(LOOK, bell.rung()).await {
            rung?;
            sleep(REST).await;
            bell.silence();
        }
    }
}

/// The leases and reservations that have not ended.
pub(super) fn in_force(store: &Store) -> Result<Vec<RawLease>> {
    let now = SystemTime::now();
    let entries = store.entries()?.into_iter();
    Ok(entries.filter(|entry| !entry.has_ended(now)).map(|entry| entry.lease).collect())
}
