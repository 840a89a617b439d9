//! The rules of leases. Pure: entries of a datastore in, what to do out.
//!
//! The datastores only read and write; [`super::transaction`] carries out what is decided here.
//!
//! **The holder of an entry** is the node whose public IP its value has. A value that names no node was spoilt; the
//! subnet is still taken. An entry with another public IP is ours as well if two of three agree ([`Traces`]): the subnet is
//! that of our last run, the public IP is or was an address of ours, and its VTEP MAC is our device's. One alone is not
//! enough. An address may have come from another node together with a service, and a cloned machine has the MAC, or the
//! files, of another one.
//!
//! **To take a subnet** ([`plan`]) a node uses the first of these, as flannel does (pkg/subnet/etcd:
//! `tryAcquireLease`):
//! 1. an entry that is its own and fits the network config; of several the subnet of its last run, so that pods keep
//!    their addresses,
//! 2. the subnet of its last run, if that fits and is free,
//! 3. a free subnet.
//!
//! Before the choice, ended leases of other nodes are removed ([`ended_subnet`]). After it, leases of this node that do
//! not fit the network config are removed.
//!
//! **To keep a subnet** ([`renewal`]) its entry must be there and must not name another node. A spoilt value is
//! written again. A datastore that gives each node its subnet needs these rules alone.
//!
//! **Reservations** are the administrator's. A node writes its value into a reservation with its public IP, but
//! never renews or removes one.

use std::net::IpAddr;
use std::slice;
use std::time::Duration;

use ipnet::IpNet;

use super::entry::{LeaseAttrs, RawLease, TTL};
use super::free;
use super::key::SubnetKey;
use super::public_ips::PublicIps;
use crate::config::{NetworkConfig, SubnetRange};
use crate::mac::Mac;

/// An entry of a datastore. `V` is what the datastore needs to change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredLease<V> {
    pub lease: RawLease,
    pub lifetime: Lifetime,
    pub version: V,
}

/// How long an entry lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifetime {
    /// Until somebody deletes it.
    Reservation,
    /// For [`TTL`] after each renewal.
    Lease,
    /// Its time is over, but it is still there.
    Ended,
}

/// What the choice of a subnet depends on, apart from the entries.
pub(super) struct SubnetRequest<'a> {
    pub config: &'a NetworkConfig,
    pub us: PublicIps,
    /// The value of our lease.
    pub value: &'a str,
    pub traces: &'a Traces,
}

/// What shows that an entry is ours although it has another public IP than ours.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    /// The subnet of our last run.
    pub subnet: Option<SubnetKey>,
    /// All addresses of this node, and those that it announced in its last run.
    pub addresses: Vec<IpAddr>,
    /// MACs of our vxlan devices.
    pub macs: Vec<Mac>,
}

/// How to take a subnet, and what to do about our other entries afterwards.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AcquirePlan<'a, V> {
    /// `None` if no subnet is free.
    pub take: Option<Take<'a, V>>,
    /// Our leases to remove, because they do not fit the network config.
    pub outdated: Vec<(SubnetKey, &'a StoredLease<V>)>,
    /// Our reservations to report, because they do not fit the network config.
    pub unfit_reservations: Vec<SubnetKey>,
}

/// How to take a subnet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Take<'a, V> {
    /// Keep an entry that we hold.
    Reuse(SubnetKey, Upkeep<'a, V>),
    /// Create an entry, if there is still none.
    Create(SubnetKey),
}

/// How to keep an entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Upkeep<'a, V> {
    pub entry: &'a StoredLease<V>,
    /// Write our value, because the entry has another.
    pub write: bool,
    /// Prolong the entry to [`TTL`] from now on, because it is a lease.
    pub prolong: bool,
}

/// What the entry of our subnet means to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// We hold the subnet.
    Held,
    /// We hold the subnet, but the value of the entry was spoilt.
    Spoilt,
    /// We no longer hold the subnet.
    Lost(Loss),
}

/// Why a lease is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// The entry is gone.
    #[error("the datastore no longer has it")]
    Gone,
    /// The entry names another node.
    #[error("{0} has it now")]
    TakenBy(PublicIps),
}

/// Decides how to take a subnet. The number `random` selects one of those that are free.
pub(super) fn plan<'a, V>(
    request: &SubnetRequest<'_>,
    entries: &'a [StoredLease<V>],
    random: u64,
) -> AcquirePlan<'a, V> {
    let SubnetRequest { config, us, value, traces } = *request;
    let previous = traces.subnet;
    let subnets = entries.iter().filter_map(|entry| Some((entry.subnet()?, entry)));
    let subnets: Vec<(SubnetKey, &StoredLease<V>)> = subnets.collect();
    let ours = subnets.iter().filter(|(_, entry)| us.same_node(&entry.holder()));
    let (mut fitting, unfit): (Vec<_>, Vec<_>) = ours.partition(|(subnet, _)| fits(config, subnet));
    let by_traces = subnets.iter().filter(|(subnet, entry)| traces.lead_to(*subnet, entry, us));
    fitting.extend(by_traces.filter(|(subnet, _)| fits(config, subnet)));

    let taken: Vec<SubnetKey> = subnets.iter().map(|(subnet, _)| *subnet).collect();
    let is_free = |subnet: &SubnetKey| !taken.iter().any(|taken| taken.overlaps(subnet));
    let take = match fitting.into_iter().min_by_key(|(subnet, _)| Some(*subnet) != previous) {
        Some((subnet, entry)) => Some(Take::Reuse(subnet, upkeep(entry, value))),
        None => previous
            .filter(|subnet| fits(config, subnet) && is_free(subnet))
            .or_else(|| free::choose(config, &taken, random))
            .map(Take::Create),
    };
    let (reservations, outdated): (Vec<_>, Vec<_>) =
        unfit.into_iter().partition(|(_, entry)| entry.lifetime == Lifetime::Reservation);
    let unfit_reservations = reservations.into_iter().map(|(subnet, _)| subnet).collect();
    AcquirePlan { take, outdated, unfit_reservations }
}

/// Decides whether to remove an entry before a subnet is chosen. Returns its subnet if so.
///
/// An ended lease of ours stays ours until another node removes it. A key that is no subnet is not a lease.
pub(super) fn ended_subnet<V>(entry: &StoredLease<V>, us: PublicIps) -> Option<SubnetKey> {
    let ended = entry.lifetime == Lifetime::Ended && !us.same_node(&entry.holder());
    entry.subnet().filter(|_| ended)
}

/// Decides how to keep our subnet, given its entry.
///
/// `ours` are the public IPs that we may have written: those of the last write that succeeded, and those of later
/// ones whose answer was lost.
pub(super) fn renewal<'a, V>(
    entry: Option<&'a StoredLease<V>>,
    ours: &[PublicIps],
    value: &str,
) -> Result<Upkeep<'a, V>, Loss> {
    let entry = entry.ok_or(Loss::Gone)?;
    match held_by(entry.holder(), ours) {
        Standing::Held | Standing::Spoilt => Ok(upkeep(entry, value)),
        Standing::Lost(loss) => Err(loss),
    }
}

/// Decides what the holder of our subnet's entry means to us. `None` means that there is no entry.
pub(super) fn standing(holder: Option<PublicIps>, us: PublicIps) -> Standing {
    holder.map_or(Standing::Lost(Loss::Gone), |holder| held_by(holder, slice::from_ref(&us)))
}

/// Decides whether a lease that was just prolonged lasts long enough. A lease with a shorter life than [`TTL`] may
/// not, and is to be replaced.
pub(super) fn lasts_long_enough(remaining: Duration) -> bool {
    remaining >= TTL / 2
}

impl Traces {
    /// Returns whether two of three show that the entry is ours.
    fn lead_to<V>(&self, subnet: SubnetKey, entry: &StoredLease<V>, us: PublicIps) -> bool {
        let holder = entry.holder();
        let address = us.v4.and(holder.v4.map(IpAddr::V4)).or(holder.v6.map(IpAddr::V6));
        let witnesses = [
            self.subnet == Some(subnet),
            address.is_some_and(|address| self.addresses.contains(&address)),
            vtep_macs(&entry.lease).any(|mac| self.macs.contains(&mac)),
        ];
        witnesses.into_iter().filter(|witness| *witness).count() >= 2
    }
}

/// Returns the MACs of the node's vxlan devices that a lease names.
fn vtep_macs(lease: &RawLease) -> impl Iterator<Item = Mac> {
    LeaseAttrs::parse(&lease.value).into_iter().flat_map(|attrs| attrs.vtep_macs())
}

fn held_by(holder: PublicIps, ours: &[PublicIps]) -> Standing {
    if holder == PublicIps::default() {
        Standing::Spoilt
    } else if ours.iter().any(|us| us.same_node(&holder)) {
        Standing::Held
    } else {
        Standing::Lost(Loss::TakenBy(holder))
    }
}

fn upkeep<'a, V>(entry: &'a StoredLease<V>, value: &str) -> Upkeep<'a, V> {
    let write = entry.lease.value != value.as_bytes();
    Upkeep { entry, write, prolong: entry.lifetime != Lifetime::Reservation }
}

/// Returns true if a node may choose `key`: it has a subnet of each range of the network config, and no other.
fn fits(config: &NetworkConfig, key: &SubnetKey) -> bool {
    let half = |range: Option<SubnetRange>, subnet: Option<IpNet>| match (range, subnet) {
        (None, None) => true,
        (Some(range), Some(subnet)) => range.fits(subnet),
        _ => false,
    };
    half(config.ipv4, key.v4.map(IpNet::V4)) && half(config.ipv6, key.v6.map(IpNet::V6))
}

impl<V> Take<'_, V> {
    pub(super) fn subnet(&self) -> SubnetKey {
        match self {
            Self::Reuse(subnet, _) | Self::Create(subnet) => *subnet,
        }
    }

    /// Returns the VTEP MACs that the entry has before.
    pub(super) fn replaced(&self) -> Vec<Mac> {
        match self {
            Self::Reuse(_, upkeep) => vtep_macs(&upkeep.entry.lease).collect(),
            Self::Create(_) => Vec::new(),
        }
    }
}

impl<V> StoredLease<V> {
    /// Returns `None` if the key is no subnet.
    fn subnet(&self) -> Option<SubnetKey> {
        self.lease.key.parse().ok()
    }

    fn holder(&self) -> PublicIps {
        PublicIps::of_holder(&self.lease)
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
