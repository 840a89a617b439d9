//! A configuration as keys and values: to say what has changed, and to write it down.

use std::fmt;

use clap::ValueEnum;
use serde_json::{Map, Value};

use super::{AliVpcConfig, Backend, ConfigError, NetworkConfig, Secret, SubnetRange, VxlanConfig};

/// What stands before the keys of the object `Backend`.
const BACKEND: &str = "Backend.";

/// The keys that concern this node alone. A running agent can change over to another value.
const RUN_TIME: [&str; 5] =
    ["Backend.Dataplane", "Backend.DirectRouting", "Backend.FlowCache", "Backend.SourceCheck", "Backend.XDP"];

/// The keys whose values are not shown.
const SECRET: &str = "Backend.AccessKeySecret";

/// A key whose value is another than before. A value is `None` where the key does not apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key, in flannel's spelling: `Network`, `Backend.VNI`.
    pub key: String,
    /// The value before.
    pub old: Option<Value>,
    /// The value now.
    pub new: Option<Value>,
}

impl Change {
    /// Returns whether a running agent can change over to the new value. Otherwise all nodes have to be restarted.
    #[must_use]
    pub fn is_for_run_time(&self) -> bool {
        RUN_TIME.contains(&self.key.as_str()) && self.old.is_some() && self.new.is_some()
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<Value>| match value {
            None => "none".to_owned(),
            Some(_) if self.key == SECRET => "a secret".to_owned(),
            Some(value) => value.to_string(),
        };
        write!(f, "{} from {} to {}", self.key, text(&self.old), text(&self.new))
    }
}

impl NetworkConfig {
    /// Returns all keys that differ in another configuration, in alphabetical order. Defaults count as values.
    #[must_use]
    pub fn changes(&self, other: &Self) -> Vec<Change> {
        let (old, new) = (self.settings(), other.settings());
        let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        let change = |key: &String| Change {
            key: key.clone(),
            old: old.get(key).cloned(),
            new: new.get(key).cloned(),
        };
        keys.into_iter().map(change).filter(|change| change.old != change.new).collect()
    }

    /// Returns this configuration with the values of some changes.
    ///
    /// # Errors
    /// The values do not fit each other.
    pub fn with<'a>(&self, changes: impl IntoIterator<Item = &'a Change>) -> Result<Self, ConfigError> {
        let mut settings = self.settings();
        for Change { key, new, .. } in changes {
            match new {
                Some(value) => settings.insert(key.clone(), value.clone()),
                None => settings.remove(key),
            };
        }
        Self::parse(&nested(settings).to_string())
    }

    /// Returns the configuration with all its defaults as a JSON object. [`NetworkConfig::parse`] reads it back.
    #[must_use]
    pub fn to_json(&self) -> Value {
        nested(self.settings())
    }

    /// Returns every key that applies, with its value or default.
    fn settings(&self) -> Map<String, Value> {
        let mut settings = Map::new();
        let mut set = |key: &str, value: Value| settings.insert(key.to_owned(), value);
        set("EnableIPv4", self.ipv4.is_some().into());
        set("EnableIPv6", self.ipv6.is_some().into());
        set("EnableNFTables", self.nftables.into());
        for (prefix, range) in [("", self.ipv4), ("IPv6", self.ipv6)] {
            let Some(SubnetRange { network, subnet_len, min, max }) = range else { continue };
            set(&format!("{prefix}Network"), network.to_string().into());
            set(&format!("{prefix}SubnetLen"), subnet_len.into());
            set(&format!("{prefix}SubnetMin"), min.to_string().into());
            set(&format!("{prefix}SubnetMax"), max.to_string().into());
        }
        let mut set = |key: &str, value: Value| settings.insert(format!("{BACKEND}{key}"), value);
        set("Type", self.backend.kind().name().into());
        match &self.backend {
            Backend::Vxlan(vxlan) => vxlan.settings(set),
            Backend::Udp(udp) => drop(set("Port", udp.port.into())),
            Backend::AwsVpc(aws) => drop(set("RouteTableID", aws.route_tables.clone().into())),
            Backend::AliVpc(ali) => ali.settings(set),
            Backend::HostGw | Backend::Alloc | Backend::Gce => {}
        }
        settings
    }
}

impl VxlanConfig {
    fn settings(&self, mut set: impl FnMut(&str, Value) -> Option<Value>) {
        let Self { vni, port, mtu, gbp, learning, direct_routing, dataplane, flow_cache, xdp, source_check } =
            self;
        set("VNI", (*vni).into());
        set("Port", port.unwrap_or_default().into());
        set("MTU", mtu.unwrap_or_default().into());
        set("GBP", (*gbp).into());
        set("Learning", (*learning).into());
        set("DirectRouting", (*direct_routing).into());
        set("Dataplane", name(dataplane));
        set("FlowCache", (*flow_cache).into());
        set("XDP", name(xdp));
        set("SourceCheck", name(source_check));
    }
}

impl AliVpcConfig {
    fn settings(&self, mut set: impl FnMut(&str, Value) -> Option<Value>) {
        let Self { region, access_key_id, access_key_secret } = self;
        set("RegionID", region.clone().into());
        set("AccessKeyID", access_key_id.clone().into());
        set("AccessKeySecret", access_key_secret.as_ref().map(|Secret(secret)| secret.clone()).into());
    }
}

fn name(choice: &impl ValueEnum) -> Value {
    choice.to_possible_value().map(|value| value.get_name().to_owned()).into()
}

/// Puts the keys of `Backend` into an object of their own.
fn nested(settings: Map<String, Value>) -> Value {
    let mut config = Map::new();
    let mut backend = Map::new();
    for (key, value) in settings {
        match key.strip_prefix(BACKEND) {
            Some(key) => backend.insert(key.to_owned(), value),
            None => config.insert(key, value),
        };
    }
    config.insert("Backend".to_owned(), backend.into());
    config.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIGS: [&str; 10] = [
        r#"{"Network": "10.5.0.0/16"}"#,
        r#"{"Network": "10.5.0.0/16", "SubnetLen": 26, "SubnetMin": "10.5.1.0", "SubnetMax": "10.5.9.0", "EnableNFTables": true, "Backend": {"Type": "vxlan"}}"#,
        r#"{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd44::/48", "Backend": {"Type": "host-gw"}}"#,
        r#"{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd44::/48", "IPv6SubnetLen": 80, "Backend": {"Type": "vxlan", "VNI": 7, "Port": 4789, "MTU": 1400, "GBP": true, "DirectRouting": true, "Dataplane": "bpf", "FlowCache": false, "XDP": "native", "SourceCheck": "off"}}"#,
        r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "udp", "Port": 9000}}"#,
        r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "alloc", "Learning": true}}"#,
        r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "aws-vpc"}}"#,
        r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "aws-vpc", "RouteTableID": ["rtb-1", "rtb-2"]}}"#,
        r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "gce"}}"#,
        r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "ali-vpc", "AccessKeyID": "a", "AccessKeySecret": "b"}}"#,
    ];

    fn parse(text: &str) -> NetworkConfig {
        NetworkConfig::parse(text).unwrap()
    }

    #[test]
    fn a_configuration_that_was_written_down_is_read_back() {
        for text in CONFIGS {
            let config = parse(text);
            assert_eq!(parse(&config.to_json().to_string()), config, "{text}");
            assert_eq!(config.changes(&config), [], "{text}");
        }
    }

    #[test]
    fn applying_all_changes_gives_the_other_configuration() {
        for (old, new) in CONFIGS.iter().flat_map(|old| CONFIGS.map(|new| (parse(old), parse(new)))) {
            assert_eq!(old.with(&old.changes(&new)).unwrap(), new);
        }
    }

    #[test]
    fn changes_name_each_key_with_both_values_and_whether_a_running_agent_can_follow() {
        let base = r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan", "VNI": 1}}"#;
        let cases: [(&str, &[(&str, bool)]); 7] = [
            (r#"{"network": "10.5.0.0/16", "Backend": {"type": "VXLAN", "FlowCache": true}}"#, &[]),
            (
                r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan", "FlowCache": false}}"#,
                &[("Backend.FlowCache from true to false", true)],
            ),
            (
                r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan", "SourceCheck": "off", "XDP": "off"}}"#,
                &[
                    (r#"Backend.SourceCheck from "pods" to "off""#, true),
                    (r#"Backend.XDP from "auto" to "off""#, true),
                ],
            ),
            (
                r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan", "VNI": 2, "DirectRouting": true}}"#,
                &[("Backend.DirectRouting from false to true", true), ("Backend.VNI from 1 to 2", false)],
            ),
            (
                r#"{"Network": "10.5.0.0/16", "SubnetLen": 25, "SubnetMin": "10.5.1.0", "SubnetMax": "10.5.255.0", "Backend": {"Type": "vxlan"}}"#,
                &[("SubnetLen from 24 to 25", false)],
            ),
            (
                r#"{"Network": "10.5.0.0/16", "EnableNFTables": true, "Backend": {"Type": "vxlan"}}"#,
                &[("EnableNFTables from false to true", false)],
            ),
            (
                r#"{"Network": "10.5.0.0/16", "Backend": {"Type": "host-gw"}}"#,
                &[
                    (r#"Backend.Dataplane from "auto" to none"#, false),
                    ("Backend.DirectRouting from false to none", false),
                    ("Backend.FlowCache from true to none", false),
                    ("Backend.GBP from false to none", false),
                    ("Backend.Learning from false to none", false),
                    ("Backend.MTU from 0 to none", false),
                    ("Backend.Port from 0 to none", false),
                    (r#"Backend.SourceCheck from "pods" to none"#, false),
                    (r#"Backend.Type from "vxlan" to "host-gw""#, false),
                    ("Backend.VNI from 1 to none", false),
                    (r#"Backend.XDP from "auto" to none"#, false),
                ],
            ),
        ];
        for (new, expected) in cases {
            let changes = parse(base).changes(&parse(new));
            let changes: Vec<_> =
                changes.iter().map(|change| (change.to_string(), change.is_for_run_time())).collect();
            let expected: Vec<_> =
                expected.iter().map(|(text, at_once)| ((*text).to_owned(), *at_once)).collect();
            assert_eq!(changes, expected, "{new}");
        }
    }
}
