//! Entries of a datastore: keys and values as flannel writes them.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::mac::Mac;

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

impl LeaseAttrs {
    /// Reads the value of a lease.
    ///
    /// # Errors
    /// It is not the JSON object of a lease.
    pub fn parse(value: &[u8]) -> serde_json::Result<Self> {
        object(&text(value))
    }

    /// Returns the MACs of the node's vxlan devices, that for IPv4 first. Other backends have none.
    pub fn vtep_macs(&self) -> impl Iterator<Item = Mac> + use<> {
        let mac = |data: &Option<Box<RawValue>>| Some(VxlanData::parse(data.as_ref()?).ok()?.vtep_mac);
        [mac(&self.backend_data), mac(&self.backend_v6_data)].into_iter().flatten()
    }
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

impl VxlanData {
    /// Reads the data of a vxlan lease.
    ///
    /// # Errors
    /// It is not their JSON object.
    pub fn parse(data: &RawValue) -> serde_json::Result<Self> {
        object(data.get())
    }
}

/// Reads a JSON object. serde takes a list as well, with the values in the order of the fields; flannel does not.
fn object<T: DeserializeOwned>(json: &str) -> serde_json::Result<T> {
    if json.trim_ascii_start().starts_with('[') {
        return Err(serde::de::Error::custom("a list instead of a JSON object"));
    }
    serde_json::from_str(json)
}

/// Returns a value as text. What is not UTF-8 becomes U+FFFD, as with Go's `encoding/json`.
fn text(value: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(value)
}

/// When an entry ends unless it is renewed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeaseEnd {
    /// Within [`TTL`]. etcd tells the time only to who asks for each lease.
    #[default]
    Unknown,
    /// It does not end by itself: it is a reservation, or that of a Node.
    Never,
    /// At this time, in seconds since 1970 (UTC).
    At(u64),
}

/// An entry of the datastore, not yet checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawLease {
    /// The last part of the key, such as `10.5.52.0-24`.
    pub key: String,
    /// The value. That of a lease is JSON, see [`LeaseAttrs`].
    pub value: Vec<u8>,
    /// The name of its node, for messages. Only Kubernetes has one.
    pub node: Option<Arc<str>>,
    /// When it ends.
    pub end: LeaseEnd,
}

impl RawLease {
    /// Returns an entry that may end at any time within [`TTL`].
    #[must_use]
    pub fn new(key: String, value: Vec<u8>) -> Self {
        Self { key, value, node: None, end: LeaseEnd::Unknown }
    }

    /// Returns true if the two are the same but for their ends.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        (&self.key, &self.value, &self.node) == (&other.key, &other.value, &other.node)
    }

    /// Returns the value as text. What is not UTF-8 is U+FFFD there.
    pub fn text(&self) -> Cow<'_, str> {
        text(&self.value)
    }
}
