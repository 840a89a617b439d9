//! The configuration of the delegate, the plugin that makes the interface: flannel's defaults, the node's subnet, and
//! what the conflist says (pure).

use serde_json::{Value, json};

use super::error::{Code, Error};
use super::network::{Network, Object};
use super::subnet::Subnet;

/// The delegate's configuration with its type.
#[derive(Debug, PartialEq)]
pub(super) struct Delegate {
    /// The name of its program.
    pub(super) kind: String,
    pub(super) config: Object,
}

impl Delegate {
    /// Computes the configuration for ADD.
    pub(super) fn new(network: &Network, subnet: &Subnet) -> Result<Self, Error> {
        let mut config = network.delegate.clone();
        refuse_own_keys(&config)?;
        config.insert("name".to_owned(), json!(network.name));
        if !network.cni_version.is_empty() {
            config.insert("cniVersion".to_owned(), json!(network.cni_version));
        }
        if let Some(runtime) = &network.runtime_config {
            config.insert("runtimeConfig".to_owned(), json!(runtime));
        }
        set_default(&mut config, "type", json!("bridge"));
        // Either the agent masquerades or the delegate.
        set_default(&mut config, "ipMasq", json!(!subnet.ip_masq));
        set_default(&mut config, "mtu", json!(subnet.mtu));
        let kind = kind_of(&config)?;
        if kind == "bridge" {
            set_default(&mut config, "isGateway", json!(true));
        }
        config.insert("ipam".to_owned(), Value::Object(ipam(&network.ipam, subnet)?));
        Ok(Self { kind, config })
    }

    /// Reads a configuration that was saved.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let bad = |error| Error::new(Code::Decoding, "reading a saved configuration", format!("{error}"));
        let config = serde_json::from_str(text).map_err(bad)?;
        Ok(Self { kind: kind_of(&config)?, config })
    }

    /// Returns the text for the delegate's standard input. Keys are sorted, as in flannel's.
    pub(super) fn text(&self) -> String {
        Value::Object(self.config.clone()).to_string()
    }

    /// [`Delegate::text`] with one more key.
    pub(super) fn text_with(&self, key: &str, value: Value) -> String {
        let mut config = self.config.clone();
        config.insert(key.to_owned(), value);
        Value::Object(config).to_string()
    }
}

/// Returns the value of `type`, which names a program.
fn kind_of(config: &Object) -> Result<String, Error> {
    match config.get("type").and_then(Value::as_str) {
        Some("flannel") => {
            Err(invalid("delegate.type is \"flannel\": the plugin cannot be its own delegate"))
        }
        Some(kind) if !kind.is_empty() && !kind.contains('/') => Ok(kind.to_owned()),
        _ => Err(invalid("delegate.type must be the name of a plugin")),
    }
}

/// Refuses keys that this plugin sets.
fn refuse_own_keys(delegate: &Object) -> Result<(), Error> {
    let found = ["name", "ipam"].into_iter().find_map(|key| Some((key, delegate.get(key)?)));
    found.map_or(Ok(()), |(key, value)| {
        let details = format!("delegate.{key} is {value}: remove it, flannel sets it");
        Err(Error::new(Code::UnsupportedField, "unsupported field in the network's configuration", details))
    })
}

/// Adds the node's subnets as `ranges`, and the cluster's networks to the `routes`.
fn ipam(given: &Object, subnet: &Subnet) -> Result<Object, Error> {
    let mut ipam = given.clone();
    set_default(&mut ipam, "type", json!("host-local"));
    let ranges: Vec<_> =
        subnet.gateways.iter().map(|net| json!([{"subnet": net.trunc().to_string()}])).collect();
    ipam.insert("ranges".to_owned(), Value::Array(ranges));
    let mut routes = match ipam.remove("routes") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(routes)) => routes,
        Some(other) => return Err(invalid(&format!("ipam.routes is {other}, which is not a list"))),
    };
    routes.extend(subnet.networks.iter().map(|net| json!({"dst": net.trunc().to_string()})));
    ipam.insert("routes".to_owned(), Value::Array(routes));
    Ok(ipam)
}

fn set_default(object: &mut Object, key: &str, value: Value) {
    object.entry(key).or_insert(value);
}

fn invalid(details: &str) -> Error {
    Error::new(Code::InvalidConfig, "invalid network configuration", details)
}
