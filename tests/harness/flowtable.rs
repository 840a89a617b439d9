//! nftables' flowtables: the kernel's own shortcut of established flows past forwarding and its rules (Linux 4.16, below bridges
//! 5.13).

use anyhow::{Context as _, Result};

use crate::cluster::Node;
use crate::netns::NetNs;

const TABLE: &str = "ip bed";

/// Fails with the kernel's reason if it has no flowtables (`CONFIG_NF_FLOW_TABLE`, `CONFIG_NFT_FLOW_OFFLOAD`).
pub fn require() -> Result<()> {
    let netns = NetNs::new("flowtable")?;
    add(&netns, &["lo"]).context("this kernel has no flowtables")
}

/// Lets TCP and UDP flows between these devices of the node skip forwarding.
pub fn start(node: &Node, devices: &[&str]) -> Result<()> {
    add(node.netns(), devices).with_context(|| format!("make a flowtable on {}", node.name()))
}

/// Returns how many packets of TCP and UDP the node has forwarded without it.
pub fn forwarded(node: &Node) -> Result<u64> {
    let chain = node.netns().exec_json(&format!("nft -j list chain {TABLE} forward"))?;
    let rules = chain["nftables"].as_array().into_iter().flatten();
    let mut expressions = rules.filter_map(|entry| entry["rule"]["expr"].as_array()).flatten();
    expressions.find_map(|expression| expression["counter"]["packets"].as_u64()).context("no counter")
}

fn add(netns: &NetNs, devices: &[&str]) -> Result<()> {
    let devices = devices.join(", ");
    let script = format!(
        "table {TABLE} {{\n\
         flowtable ft {{ hook ingress priority 0; devices = {{ {devices} }}; }}\n\
         chain forward {{\n\
         type filter hook forward priority 0; policy accept;\n\
         meta l4proto {{ tcp, udp }} counter flow add @ft\n\
         }}\n\
         }}\n"
    );
    netns.exec_with("nft -f -", &script).map(drop)
}
