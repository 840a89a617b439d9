//! Carries out what [`super::policy`] decides, in datastores where nodes choose their subnets.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::backoff::Backoff;
use super::entry::LeaseAttrs;
use super::key::SubnetKey;
use super::manager::OwnLease;
use super::policy::{self, Loss, StoredLease, SubnetRequest, Take, Traces, Upkeep};
use super::public_ips::PublicIps;
use crate::config::NetworkConfig;
use crate::mac::Mac;
use crate::random;

/// Pause after another node was faster, at first and at most.
const CONFLICT_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// Reads entries and changes them, provided that no other client changes them at the same time. A lock prevents that,
/// or a comparison detects it.
pub(super) trait Transaction: Send {
    /// The state of an entry, which a change of it depends on.
    type Version: Send + Sync;

    /// Returns the place of the leases, for messages.
    fn place(&self) -> String;

    /// Reads all entries.
    fn entries(&mut self) -> impl Future<Output = Result<Vec<StoredLease<Self::Version>>>> + Send;

    /// Reads one entry; `None` if there is none.
    fn entry(
        &mut self,
        subnet: SubnetKey,
    ) -> impl Future<Output = Result<Option<StoredLease<Self::Version>>>> + Send;

    /// Creates a lease.
    fn create(&mut self, subnet: SubnetKey, value: &str) -> impl Future<Output = Result<WriteResult>> + Send;

    /// Writes and prolongs an entry, as far as `upkeep` says. A reservation stays one.
    fn keep(
        &mut self,
        subnet: SubnetKey,
        upkeep: &Upkeep<'_, Self::Version>,
        value: &str,
    ) -> impl Future<Output = Result<WriteResult>> + Send;

    /// Removes an entry, if it is still there.
    fn remove(
        &mut self,
        subnet: SubnetKey,
        entry: &StoredLease<Self::Version>,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Ends the transaction.
    fn finish(self) -> impl Future<Output = ()> + Send;
}

/// The result of a write.
pub(super) enum WriteResult {
    /// Written. The time is the end of the entry; a reservation has none.
    Done(Option<Instant>),
    /// Not written: another client has changed the entry since it was read.
    Conflict,
}

/// See [`SubnetManager::acquire`](super::SubnetManager::acquire).
pub(super) async fn acquire<T: Transaction>(
    mut transaction: T,
    config: &NetworkConfig,
    attrs: &LeaseAttrs,
    traces: &Traces,
) -> Result<OwnLease> {
    let value = text(attrs)?;
    let request = SubnetRequest { config, us: PublicIps::from(attrs), value: &value, traces };
    let taken = take(&mut transaction, &request).await;
    transaction.finish().await;
    let Taken { subnet, term, mut replaced } = taken?;
    replaced.retain(|mac| attrs.vtep_macs().all(|own| own != *mac));
    Ok(OwnLease { subnet, attrs: attrs.clone(), term, replaced })
}

/// See [`SubnetManager::renew`](super::SubnetManager::renew).
pub(super) async fn renew<T: Transaction>(
    mut transaction: T,
    lease: &OwnLease,
    attrs: &LeaseAttrs,
) -> Result<Result<OwnLease, Loss>> {
    let (subnet, value) = (lease.subnet, text(attrs)?);
    let ours = [&lease.attrs, attrs].map(PublicIps::from);
    let entry = transaction.entry(subnet).await?;
    let upkeep = match policy::renewal(entry.as_ref(), &ours, &value) {
        Ok(upkeep) => upkeep,
        Err(loss) => return Ok(Err(loss)),
    };
    let written = transaction.keep(subnet, &upkeep, &value).await?;
    transaction.finish().await;
    let WriteResult::Done(term) = written else {
        bail!("another client changed the lease {subnet} at the same time");
    };
    if upkeep.write {
        info!(lease = %subnet, "wrote our value into our lease");
    }
    Ok(Ok(OwnLease { subnet, attrs: attrs.clone(), term, replaced: lease.replaced.clone() }))
}

/// A subnet that was taken.
struct Taken {
    subnet: SubnetKey,
    /// The end of its lease.
    term: Option<Instant>,
    /// The VTEP MACs that its entry had before.
    replaced: Vec<Mac>,
}

/// Tries until a subnet is taken or none is free.
async fn take<T: Transaction>(transaction: &mut T, request: &SubnetRequest<'_>) -> Result<Taken> {
    let mut pause = Backoff::new(CONFLICT_PAUSE.0, CONFLICT_PAUSE.1);
    loop {
        let entries = transaction.entries().await?;
        let entries = without_ended(transaction, entries, request.us).await;
        let plan = policy::plan(request, &entries, random::number()?);
        let Some(take) = plan.take else {
            bail!(
                "no subnet is free: there are {} leases in {}; enlarge the network config or delete leases of nodes \
                 that are gone",
                entries.len(),
                transaction.place()
            );
        };
        let subnet = take.subnet();
        if let WriteResult::Done(term) = write(transaction, &take, request.value).await? {
            for subnet in plan.unfit_reservations {
                warn!(lease = %subnet, "our reservation does not fit the network config; delete or correct it");
            }
            for (subnet, entry) in plan.outdated {
                remove(transaction, subnet, entry, "it is ours and no longer fits the network config").await;
            }
            return Ok(Taken { subnet, term, replaced: take.replaced() });
        }
        debug!("another node was faster, choosing again");
        pause.wait().await;
    }
}

async fn write<T: Transaction>(
    transaction: &mut T,
    take: &Take<'_, T::Version>,
    value: &str,
) -> Result<WriteResult> {
    match take {
        Take::Reuse(subnet, upkeep) => {
            let written = transaction.keep(*subnet, upkeep, value).await?;
            if let WriteResult::Done(term) = written {
                let reservation = term.is_none();
                let holder = PublicIps::of_holder(&upkeep.entry.lease);
                info!(lease = %subnet, reservation, %holder, "reusing our lease, which had this holder");
            }
            Ok(written)
        }
        Take::Create(subnet) => {
            let written = transaction.create(*subnet, value).await?;
            if let WriteResult::Done(_) = written {
                info!(lease = %subnet, "took a subnet");
            }
            Ok(written)
        }
    }
}

/// Removes the ended leases of other nodes. Returns the entries that are left.
async fn without_ended<T: Transaction>(
    transaction: &mut T,
    entries: Vec<StoredLease<T::Version>>,
    us: PublicIps,
) -> Vec<StoredLease<T::Version>> {
    let mut left = Vec::with_capacity(entries.len());
    for entry in entries {
        let removed = match policy::ended_subnet(&entry, us) {
            Some(subnet) => remove(transaction, subnet, &entry, "it has ended").await,
            None => false,
        };
        if !removed {
            left.push(entry);
        }
    }
    left
}

/// Removes an entry. Returns false if that fails.
async fn remove<T: Transaction>(
    transaction: &mut T,
    subnet: SubnetKey,
    entry: &StoredLease<T::Version>,
    why: &str,
) -> bool {
    match transaction.remove(subnet, entry).await {
        Ok(()) => info!(lease = %subnet, "removed a lease: {why}"),
        Err(ref error) => {
            warn!(lease = %subnet, "could not remove a lease, although {why}: {error:#}");
            return false;
        }
    }
    true
}

/// Returns the value of our lease as text.
fn text(attrs: &LeaseAttrs) -> Result<String> {
    serde_json::to_string(attrs).context("writing our lease as JSON")
}
