//! The runtime's side of CNI, as libcni does it: the plugins of a conflist in order, each with the result of the one before
//! it; DEL in reverse (CNI specification, section 3).

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use flannel_tests::process::{Finished, LIMIT, complete};
use flannel_tests::{Host, NetNs, Node};
use serde_json::{Value, json};

use super::{PLUGINS, bin_dir, conf_dir};

/// The pods' interface.
const INTERFACE: &str = "eth0";

/// A plugin's error.
#[derive(Debug)]
pub(super) struct CniError {
    pub(super) code: u64,
    pub(super) msg: String,
    pub(super) details: String,
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CNI error {}: {}; {}", self.code, self.msg, self.details)
    }
}

impl std::error::Error for CniError {}

/// A pod's namespace and its attachment to the network.
#[derive(Debug)]
pub(super) struct Sandbox {
    netns: NetNs,
    /// What the runtime gives for the conflist's `capabilities`.
    capabilities: Value,
    /// The result of the last plugin; null before ADD.
    pub(super) result: Value,
}

impl Sandbox {
    /// Makes a namespace that is not attached yet.
    pub(super) fn new(capabilities: Value) -> Result<Self> {
        let netns = NetNs::new("sandbox")?;
        netns.ip(&["link set lo up"])?;
        Ok(Self { netns, capabilities, result: Value::Null })
    }

    /// Returns the container's ID.
    pub(super) fn id(&self) -> &str {
        self.netns.name()
    }

    /// Returns the pod's addresses with their prefix lengths, as the result has them.
    pub(super) fn addresses(&self) -> Vec<String> {
        let ips = self.result["ips"].as_array().into_iter().flatten();
        ips.filter_map(|ip| ip["address"].as_str().map(str::to_owned)).collect()
    }

    /// Returns the name of its port on the node.
    pub(super) fn port(&self) -> Result<&str> {
        let interfaces = self.result["interfaces"].as_array().context("no interfaces")?.iter();
        let mut names = interfaces.filter_map(|interface| interface["name"].as_str());
        names.find(|name| name.starts_with("veth")).context("the result has no port")
    }
}

impl Host for Sandbox {
    fn netns(&self) -> &NetNs {
        &self.netns
    }

    fn ip(&self) -> IpAddr {
        let addresses = self.addresses();
        let first = addresses.first().and_then(|address| address.split('/').next()?.parse().ok());
        first.expect("the pod has an address")
    }
}

/// Calls the plugins of the conflist that is installed on a node.
pub(super) struct Runtime<'a> {
    node: &'a Node,
    conflist: Value,
    pub(super) path: Vec<PathBuf>,
}

impl<'a> Runtime<'a> {
    pub(super) fn new(node: &'a Node) -> Result<Self> {
        let text = std::fs::read_to_string(conf_dir(node).join("10-flannel.conflist"))?;
        let path = vec![bin_dir(node), PLUGINS.into()];
        Ok(Self { node, conflist: serde_json::from_str(&text)?, path })
    }

    /// Makes a pod.
    pub(super) fn add(&self, capabilities: Value) -> Result<Sandbox> {
        let mut sandbox = Sandbox::new(capabilities)?;
        self.attach(&mut sandbox)?;
        Ok(sandbox)
    }

    /// Calls ADD of each plugin. A failure is a [`CniError`].
    pub(super) fn attach(&self, sandbox: &mut Sandbox) -> Result<()> {
        let mut result = Value::Null;
        for plugin in self.plugins()? {
            let config = self.config(plugin, sandbox, &result);
            result = self.call("ADD", Some(sandbox), &config)?;
        }
        sandbox.result = result;
        Ok(())
    }

    /// Calls DEL of each plugin, the last one first.
    pub(super) fn detach(&self, sandbox: &Sandbox) -> Result<()> {
        let mut plugins = self.plugins()?.iter().rev();
        plugins.try_for_each(|plugin| self.del(plugin, sandbox))
    }

    fn del(&self, plugin: &Value, sandbox: &Sandbox) -> Result<()> {
        let config = self.config(plugin, sandbox, &sandbox.result);
        self.call("DEL", Some(sandbox), &config).map(drop)
    }

    /// Calls CHECK of the plugin `flannel`. The bandwidth plugin 1.1.1 crashes at CHECK of a pod without limits.
    pub(super) fn check(&self, sandbox: &Sandbox) -> Result<()> {
        let config = self.config(&self.plugins()?[0], sandbox, &sandbox.result);
        self.call("CHECK", Some(sandbox), &config).map(drop)
    }

    /// Calls STATUS of the plugin `flannel`.
    pub(super) fn status(&self) -> Result<()> {
        self.call("STATUS", None, &self.named(&self.plugins()?[0])).map(drop)
    }

    /// Calls GC of the plugin `flannel`. These pods exist.
    pub(super) fn collect_garbage(&self, valid: &[&Sandbox]) -> Result<()> {
        let mut config = self.named(&self.plugins()?[0]);
        let valid = valid.iter().map(|sandbox| json!({"containerID": sandbox.id(), "ifname": INTERFACE}));
        config["cni.dev/valid-attachments"] = Value::Array(valid.collect());
        self.call("GC", None, &config).map(drop)
    }

    fn plugins(&self) -> Result<&Vec<Value>> {
        self.conflist["plugins"].as_array().context("the conflist has no plugins")
    }

    /// Returns a plugin's configuration with the network's name and version.
    fn named(&self, plugin: &Value) -> Value {
        let mut config = plugin.clone();
        config["name"] = self.conflist["name"].clone();
        config["cniVersion"] = self.conflist["cniVersion"].clone();
        config
    }

    /// Completes it with what the plugin is capable of and the pod asks for, and with the result so far.
    fn config(&self, plugin: &Value, sandbox: &Sandbox, previous: &Value) -> Value {
        let mut config = self.named(plugin);
        let asked = sandbox.capabilities.as_object().into_iter().flatten();
        for (name, value) in asked.filter(|(name, _)| plugin["capabilities"][name.as_str()] == true) {
            config["runtimeConfig"][name] = value.clone();
        }
        if !previous.is_null() {
            config["prevResult"] = previous.clone();
        }
        config
    }

    /// Runs a plugin and returns what it printed. A failure is a [`CniError`].
    pub(super) fn call(&self, verb: &str, sandbox: Option<&Sandbox>, config: &Value) -> Result<Value> {
        let kind = config["type"].as_str().context("a plugin without a type")?;
        let found = self.path.iter().map(|folder| folder.join(kind)).find(|path| path.is_file());
        let mut command = self.node.netns().command(found.with_context(|| format!("no plugin {kind}"))?);
        command.env("CNI_COMMAND", verb).env("CNI_PATH", std::env::join_paths(&self.path)?);
        if let Some(sandbox) = sandbox {
            command.env("CNI_CONTAINERID", sandbox.id()).env("CNI_NETNS", sandbox.netns.path());
            command.env("CNI_IFNAME", INTERFACE);
        }
        let Finished { status, stdout, stderr } = complete(&mut command, &config.to_string(), LIMIT)?;
        let answer = if stdout.trim().is_empty() { Ok(Value::Null) } else { serde_json::from_str(&stdout) };
        let answer = answer.with_context(|| format!("{kind} printed {stdout}"))?;
        if status.success() {
            return Ok(answer);
        }
        let Some(code) = answer["code"].as_u64() else { bail!("{kind}: {status}: {stdout}{stderr}") };
        let text = |key: &str| answer[key].as_str().unwrap_or("").to_owned();
        Err(CniError { code, msg: text("msg"), details: text("details") }.into())
    }
}

/// Returns the error of a plugin.
pub(super) fn refused<T: fmt::Debug>(result: Result<T>) -> Result<CniError> {
    let Err(error) = result else { bail!("the plugin did not fail: {result:?}") };
    error.downcast()
}
