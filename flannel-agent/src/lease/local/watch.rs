//! Follows the leases of a folder: after every change all files are read, and sent if a lease or its end differs.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{sleep, timeout};

use super::folder::LeaseFolder;
use crate::lease::change_notifier::ChangeNotifier;
use crate::lease::entry::RawLease;
use crate::lease::manager::LeaseUpdate;
use crate::lease::policy::Lifetime;
use crate::lease::watch::{Follow, Outage, Updates};
use crate::metrics::Request;

/// Time between a change and the reading of the files, for a writer to finish.
const SETTLE: Duration = Duration::from_millis(50);
/// Longest time between two readings. No event reports that a lease ends, or (on NFS) what another machine writes.
const POLL: Duration = Duration::from_secs(10);

impl Follow for LeaseFolder {
    async fn follow(&self, updates: &Updates, outage: &mut Outage) -> Result<()> {
        let mut notifier = ChangeNotifier::new()?;
        let mut sent = None;
        loop {
            // Added each time: the path may lead to another folder by now.
            for dir in [&self.dir, &self.subnets()?] {
                notifier.add(dir)?;
            }
            let leases = in_force(self)?;
            outage.end();
            if sent.as_ref() != Some(&leases) {
                if updates.send(LeaseUpdate::Snapshot(leases.clone())).await.is_err() {
                    return Ok(());
                }
                sent = Some(leases);
            }
            if let Ok(changed) = timeout(POLL, notifier.changed()).await {
                changed?;
                sleep(SETTLE).await;
                notifier.clear();
            }
        }
    }
}

/// Returns the leases and reservations that have not ended.
pub(super) fn in_force(folder: &LeaseFolder) -> Result<Vec<RawLease>> {
    let entries = Request::measure(|| folder.entries())?.into_iter();
    Ok(entries.filter(|entry| entry.lifetime != Lifetime::Ended).map(|entry| entry.lease).collect())
}
