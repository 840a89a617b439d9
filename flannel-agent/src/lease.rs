//! Leases: which node holds which pod subnet, as flannel's datastore has it.
//!
//! [`SubnetManager`] is the interface of a datastore. `policy` has the rules by which a node takes and keeps its
//! subnet. [`set`] has the leases of all nodes, without the bad entries.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::Context as _;
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

/// Time from a renewal to the end of a lease, as with flannel (pkg/subnet/etcd: `subnetTTL`).
pub const TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// The value of a lease: where its node is and how to reach it. The fields are written in this order.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LeaseAttrs {
    /// The node's IPv4 address on the underlay. `None` is written as `0.0.0.0`, Go's zero value: flannel can read
    /// nothing else there.
    #[serde(rename = "PublicIP", default, with = "zero_is_none")]
    pub public_ip: Option<Ipv4Addr>,
    /// The node's IPv6 address on the underlay.
    #[serde(rename = "PublicIPv6", default)]
    pub public_ipv6: Option<Ipv6Addr>,
    /// The node's backend: `vxlan`, `host-gw` ...
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub backend_type: String,
    /// The backend's data for IPv4. With vxlan it is [`VxlanData`].
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
    /// VXLAN network identifier. Leases of older flannel have none.
    #[serde(rename = "VNI", default)]
    pub vni: Option<u32>,
    /// MAC of the node's vxlan device.
    #[serde(rename = "VtepMAC")]
    pub vtep_mac: Mac,
}

/// An entry of the datastore, not yet checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawLease {
    /// The last part of the key, such as `10.5.52.0-24`.
    pub key: String,
    /// The value. That of a lease is JSON, see [`LeaseAttrs`].
    pub value: Vec<u8>,
}

/// A change that a watch reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseUpdate {
    /// All entries: at the start, and after every gap in the events. An entry that is not in it is gone.
    Snapshot(Vec<RawLease>),
    /// An entry is new or has changed.
    Put(RawLease),
    /// The entry with this key is gone.
    Delete(String),
}

/// The lease that this node holds.
#[derive(Clone, Debug)]
pub struct OwnLease {
    /// Our pod subnet.
    pub subnet: SubnetKey,
    /// The value that we wrote.
    pub attrs: LeaseAttrs,
    /// The end of the lease unless it is renewed. A reservation has none and is never renewed.
    pub term: Option<tokio::time::Instant>,
}

impl fmt::Display for OwnLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.subnet.fmt(f)
    }
}

/// A network config for messages that ask for one.
const EXAMPLE_CONFIG: &str = r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}"#;

/// Parses the network config of a datastore. `place` is where it stands.
fn parse_config(text: &str, place: &str) -> anyhow::Result<NetworkConfig> {
    NetworkConfig::parse(text)
        .with_context(|| format!("the network config in {place} cannot be used; correct it there"))
}

/// A datastore of leases.
pub trait SubnetManager {
    /// Reads the network configuration.
    ///
    /// # Errors
    /// The datastore cannot be reached, or has no configuration, or a wrong one. The message names key and value.
    fn network_config(&self) -> impl Future<Output = anyhow::Result<NetworkConfig>> + Send;

    /// Takes a subnet. Where nodes choose their subnets, that is the lease with our public IP, or `previous` if it
    /// fits, or a free one. Otherwise it is the subnet that the datastore has given to this node.
    ///
    /// # Errors
    /// The datastore cannot be reached, or has no subnet for us.
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

    /// Reads all entries.
    ///
    /// # Errors
    /// The datastore cannot be reached.
    fn leases(&self) -> impl Future<Output = anyhow::Result<Vec<RawLease>>> + Send;

    /// Sends a snapshot, then events, and a snapshot again after every gap, until `updates` is closed. Logs outages
    /// and retries after them.
    fn watch(&self, updates: mpsc::Sender<LeaseUpdate>) -> impl Future<Output = ()> + Send;
}
