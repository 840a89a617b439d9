//! The CNI plugin with the real plugins of other projects, called as a container runtime calls it.

mod install;
mod leftover;
mod pods;
mod runtime;
mod verbs;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use flannel_tests::agent::agent_binary;
use flannel_tests::process::{Finished, LIMIT, complete};
use flannel_tests::{NetNs, Node, SubnetEnv};
use serde_json::{Value, json};

use self::runtime::Runtime;

/// Where Debian has the plugins of the CNI project.
const PLUGINS: &str = "/usr/lib/cni";

/// Returns the folder of a node's CNI plugin.
fn bin_dir(node: &Node) -> PathBuf {
    node.dir().join("cni/bin")
}

/// Returns the folder of a node's CNI configurations.
fn conf_dir(node: &Node) -> PathBuf {
    node.dir().join("cni/net.d")
}

/// Returns the folder in which the plugin saves the delegates' configurations.
fn data_dir(node: &Node) -> PathBuf {
    node.dir().join("cni/flannel")
}

/// Returns flannel's conflist with folders of this node, so that nodes do not share any. `change` edits the entry of the
/// plugin `flannel`.
fn conflist(node: &Node, version: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut flannel = json!({
        "type": "flannel",
        "subnetFile": node.subnet_file(),
        "dataDir": data_dir(node),
        "ipam": {"dataDir": node.dir().join("cni/networks")},
        "delegate": {"hairpinMode": true, "isDefaultGateway": true},
    });
    change(&mut flannel);
    json!({
        "name": "cbr0",
        "cniVersion": version,
        "plugins": [
            flannel,
            {"type": "portmap", "capabilities": {"portMappings": true}},
            {"type": "bandwidth", "capabilities": {"bandwidth": true}},
        ],
    })
}

/// Runs `flannel-agent install-cni` for the folders of a node.
fn install_cni(node: &Node, args: &[&str]) -> Result<Finished> {
    let mut command = node.netns().command(agent_binary()?);
    command.arg("install-cni").args(args);
    command.arg("--cni-bin-dir").arg(bin_dir(node)).arg("--cni-conf-dir").arg(conf_dir(node));
    complete(&mut command, "", LIMIT)
}

/// Installs plugin and conflist on a node and returns the runtime that uses them.
fn set_up<'a>(node: &'a Node, conflist: &Value) -> Result<Runtime<'a>> {
    let source = node.dir().join("cni-conf.json");
    fs::write(&source, conflist.to_string())?;
    let done = install_cni(node, &["--cni-conf", source.to_str().context("the path is UTF-8")?])?;
    anyhow::ensure!(done.status.success(), "install-cni: {}", done.stderr);
    Runtime::new(node)
}

/// Writes what an agent would write.
fn write_subnet(node: &Node, subnet: &str) -> Result<()> {
    let subnet = SubnetEnv {
        network: Some("10.5.0.0/16".parse()?),
        subnet: Some(subnet.parse()?),
        ipv6_network: None,
        ipv6_subnet: None,
        mtu: 1450,
        ip_masq: true,
    };
    subnet.write(&node.subnet_file())
}

/// Returns the names of the files in a folder; empty if it does not exist.
fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Returns the addresses of an interface, as `ip` prints them.
fn addresses(netns: &NetNs, interface: &str) -> Result<Vec<String>> {
    let links = netns.exec_json(&format!("ip -j addr show dev {interface} scope global"))?;
    let addresses = links[0]["addr_info"].as_array().context("no addresses")?.iter();
    // `ip` prints an empty object for each address that the filter leaves out.
    let addresses = addresses.filter_map(|address| Some((address["local"].as_str()?, &address["prefixlen"])));
    Ok(addresses.map(|(ip, len)| format!("{ip}/{len}")).collect())
}
