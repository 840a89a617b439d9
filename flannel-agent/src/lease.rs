//! Leases: which node owns which pod subnet, as flannel's datastore has it.
//!
//! [`SubnetManager`] is the seam to the datastore; [`set`] keeps what it says and refuses bad entries;
//! [`pick`] chooses our own subnet.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::config::NetworkConfig;
use crate::mac::Mac;

mod backoff;
pub mod etcd;
mod free;
pub mod key;
pub mod local;
mod policy;
mod public_ips;
pub mod set;
mod transaction;
mod watch;

pub use key::SubnetKey;
pub use policy::{Loss, Standing};
pub use public_ips::PublicIps;

/// Life of a lease in the datastore, as flannel gives it (pkg/subnet/etcd: `subnetTTL`).
pub const TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// A lease's value: where its node is and how to reach it. Field order is the order in the datastore.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LeaseAttrs {
    /// The node's IPv4 address on the underlay. Without one the text is `0.0.0.0`, Go's zero value: flannel
    /// can read nothing else there.
    #[serde(rename = "PublicIP", default, with = "zero_is_none")]
    pub public_ip: Option<Ipv4Addr>,
    /// The node's IPv6 address on the underlay.
    #[serde(rename = "PublicIPv6", default)]
    pub public_ipv6: Option<Ipv6Addr>,
    /// Backend that the node runs: `vxlan`, `host-gw` ...
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub backend_type: String,
    /// The backend's data for IPv4, for vxlan [`VxlanData`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_data: Option<Box<RawValue>>,
    /// The backend's data for IPv6.
    #[serde(rename = "BackendV6Data", default, skip_serializing_if = "Option::is_none")]
    pub backend_v6_data: Option<Box<RawValue>>,
}

mod zero_is_none {
    use super::{Deserialize, Ipv4Addr};

    pub(super) fn serialize<S>(address: &Option<Ipv4Addr>, serializer: S) -> Result<S::Ok, S::Error>
    where
        S: serde::Serializer,
    {
        serializer.collect_str(&address.unwrap_or(Ipv4Addr::UNSPECIFIED))
    }

    pub(super) fn deserialize<'de, D>(deserializer: D) -> Result<Option<Ipv4Addr>, D::Error>
    where
        D: serde::Deserializer<'de>,
    {
        let address = Option::<Ipv4Addr>::deserialize(deserializer)?;
        Ok(address.filter(|address| !address.is_unspecified()))
    }
}

/// `BackendData` of a vxlan lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VxlanData {
    /// VXLAN network identifier; leases of older flannel have none.
    #[serde(rename = "VNI", default)]
    pub vni: Option<u32>,
    /// MAC of the node's vxlan device.
    #[serde(rename = "VtepMAC")]
    pub vtep_mac: Mac,
}

/// A lease as the datastore has it, before anyone judged it: key below `subnets/`, and value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawLease {
    /// Last part of the key, such as `10.5.52.0-24`.
    pub key: String,
    /// The value, JSON if its writer was sane.
    pub value: Vec<u8>,
}

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseUpdate {
    /// Everything there is: at the start and after any gap. What is not in it is gone.
    Snapshot(Vec<RawLease>),
    /// One lease is new or changed.
    Put(RawLease),
    /// One lease is gone.
    Delete(String),
}

/// The lease that this node holds.
#[derive(Clone, Debug)]
pub struct OwnLease {
    /// Our pod subnet.
    pub subnet: SubnetKey,
    /// What we wrote there.
    pub attrs: LeaseAttrs,
    /// When the datastore drops it unless renewed; `None` for a reservation, which is never renewed and never
    /// ends.
    pub term: Option<tokio::time::Instant>,
}

impl fmt::Display for OwnLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.subnet.fmt(f)
    }
}

/// A datastore of leases.
pub trait SubnetManager {
    /// Reads the network configuration.
    ///
    /// # Errors
    /// The datastore cannot be reached, has no configuration, or it is wrong: the message names key and value.
    fn network_config(&self) -> impl Future<Output = anyhow::Result<NetworkConfig>> + Send;

    /// Takes a subnet: the lease with our public IP, else `previous` if it fits, else a free one.
    ///
    /// # Errors
    /// The datastore cannot be reached, or no subnet is free.
    fn acquire(
        &self,
        config: &NetworkConfig,
        attrs: &LeaseAttrs,
        previous: Option<SubnetKey>,
    ) -> impl Future<Output = anyhow::Result<OwnLease>> + Send;

    /// Keeps our subnet: prolongs its lease and writes `attrs` where the datastore has something else.
    ///
    /// # Errors
    /// The datastore cannot be reached.
    fn renew(
        &self,
        lease: &OwnLease,
        attrs: &LeaseAttrs,
    ) -> impl Future<Output = anyhow::Result<Result<OwnLease, Loss>>> + Send;

    /// Everything there is now, asked for anew.
    ///
    /// # Errors
    /// The datastore cannot be reached.
    fn leases(&self) -> impl Future<Output = anyhow::Result<Vec<RawLease>>> + Send;

    /// Delivers a snapshot, then events, then a snapshot again after every gap, until `updates` is closed.
    /// Outages are logged and retried in here.
    fn watch(&self, updates: mpsc::Sender<LeaseUpdate>) -> impl Future<Output = ()> + Send;
}
