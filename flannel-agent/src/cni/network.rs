//! The plugin's configuration: one entry of a conflist's `plugins`, as a runtime completes it.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::{Code, Error};
use super::request::{IDENTIFIER, is_identifier};

/// A JSON object. Its keys are sorted.
pub(super) type Object = Map<String, Value>;

/// Where flannel's CNI plugin keeps the configurations of delegates.
const DATA_DIR: &str = "/var/lib/cni/flannel";
const SUBNET_FILE: &str = "/run/flannel/subnet.env";
/// The key of the attachments that exist, given at GC.
pub(super) const ATTACHMENTS: &str = "cni.dev/valid-attachments";
/// The keys of [`Network`]. Go matches keys without regard to case, and so does this plugin.
const KEYS: [&str; 9] = [
    "cniVersion",
    "name",
    "subnetFile",
    "dataDir",
    "delegate",
    "ipam",
    "runtimeConfig",
    "prevResult",
    ATTACHMENTS,
];

/// The configuration. Values of the delegate and its IPAM plugin pass through as they are.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Network {
    /// The version of the CNI specification; empty if it is not named.
    #[serde(default)]
    pub(super) cni_version: String,
    /// The network's name.
    #[serde(default)]
    pub(super) name: String,
    #[serde(default = "subnet_file")]
    pub(super) subnet_file: PathBuf,
    #[serde(default = "data_dir")]
    pub(super) data_dir: PathBuf,
    #[serde(default)]
    pub(super) delegate: Object,
    #[serde(default)]
    pub(super) ipam: Object,
    /// What the runtime gives for the `capabilities` of the conflist.
    pub(super) runtime_config: Option<Object>,
    /// The result of ADD, given at CHECK.
    pub(super) prev_result: Option<Object>,
    /// The attachments that exist, given at GC.
    #[serde(default, rename = "cni.dev/valid-attachments")]
    pub(super) valid_attachments: Vec<Attachment>,
}

/// A container's interface in the network.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Attachment {
    #[serde(rename = "containerID")]
    pub(super) container_id: String,
    #[serde(default)]
    pub(super) ifname: String,
}

impl Network {
    /// Reads a configuration.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let bad =
            |error| Error::new(Code::Decoding, "reading the network's configuration", format!("{error}"));
        let object: Object = serde_json::from_str(text).map_err(bad)?;
        // Go reads null as an absent value.
        let known = object.into_iter().filter(|(_, value)| !value.is_null());
        let known = known.map(|(key, value)| (spelled(key), value)).collect();
        let network: Self = serde_json::from_value(Value::Object(known)).map_err(bad)?;
        if !is_identifier(&network.name) {
            let details = format!("the network's name is {:?}: {IDENTIFIER}", network.name);
            return Err(Error::new(Code::InvalidConfig, "invalid network configuration", details));
        }
        Ok(network)
    }
}

/// Returns a known key as [`KEYS`] spells it, any other key as it is.
fn spelled(key: String) -> String {
    KEYS.iter().find(|known| known.eq_ignore_ascii_case(&key)).map_or(key, |known| (*known).to_owned())
}

fn subnet_file() -> PathBuf {
    SUBNET_FILE.into()
}

fn data_dir() -> PathBuf {
    DATA_DIR.into()
}
