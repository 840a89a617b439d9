//! Installs the iptables rules of flanneld, so that all variants of a comparison have them.

use anyhow::{Context as _, Result};

use crate::cluster::Node;
use crate::netns::NetNs;

/// Installs flanneld's rules with iptables, in its order, for a node that holds `subnet` of `network`.
pub fn firewall(node: &Node, subnet: &str, network: &str) -> Result<()> {
    install(node.netns(), subnet, network)
        .with_context(|| format!("install flannel's rules on {}", node.name()))
}

/// Adds those of flanneld's chains and rules that the node does not have, as flanneld does at its start.
pub(crate) fn add_missing(node: &Node, subnet: &str, network: &str) -> Result<()> {
    let saved = node.exec("iptables-save")?;
    let has = |line: &str| {
        let chain = line.starts_with(':').then(|| line.split_once('[').map_or(line, |(chain, _)| chain));
        saved.lines().any(|saved| chain.map_or(saved == line, |chain| saved.starts_with(chain)))
    };
    let all = rules(subnet, network);
    let missing = all.lines().filter(|line| !line.starts_with([':', '-']) || !has(line));
    let input: String = missing.map(|line| format!("{line}\n")).collect();
    let added = node.netns().exec_with("iptables-restore --noflush", &input);
    added.map(drop).with_context(|| format!("add flannel's rules on {}", node.name()))
}

fn install(netns: &NetNs, subnet: &str, network: &str) -> Result<()> {
    netns.exec_with("iptables-restore", &rules(subnet, network)).map(drop)
}

fn rules(subnet: &str, network: &str) -> String {
    let masq = r#"-m comment --comment "flanneld masq""#;
    let forward = r#"-m comment --comment "flanneld forward""#;
    format!(
        "*nat\n\
        :FLANNEL-POSTRTG - [0:0]\n\
        -A POSTROUTING {masq} -j FLANNEL-POSTRTG\n\
        -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 {masq} -j RETURN\n\
        -A FLANNEL-POSTRTG -s {subnet} -d {network} {masq} -j RETURN\n\
        -A FLANNEL-POSTRTG -s {network} -d {subnet} {masq} -j RETURN\n\
        -A FLANNEL-POSTRTG ! -s {network} -d {subnet} {masq} -j RETURN\n\
        -A FLANNEL-POSTRTG -s {network} ! -d 224.0.0.0/4 {masq} -j MASQUERADE --random-fully\n\
        -A FLANNEL-POSTRTG ! -s {network} -d {network} {masq} -j MASQUERADE --random-fully\n\
        COMMIT\n\
        *filter\n\
        :FLANNEL-FWD - [0:0]\n\
        -A FORWARD {forward} -j FLANNEL-FWD\n\
        -A FLANNEL-FWD -s {network} {forward} -j ACCEPT\n\
        -A FLANNEL-FWD -d {network} {forward} -j ACCEPT\n\
        COMMIT\n"
    )
}
