//! Gives network cards of this machine to nodes as uplinks. When a node's namespace ends, its card returns.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::netns::NetNs;
use crate::process::{LIMIT, finish};

const DRIVER: &str = "virtio_net";

/// Moves one card to each node.
pub(super) fn give(nodes: &[NetNs]) -> Result<()> {
    let cards = cards()?;
    ensure!(
        cards.len() >= nodes.len(),
        "the test needs {} network cards of {DRIVER} on one segment and found {cards:?}: run it by `cargo xtask vm`",
        nodes.len()
    );
    let lines = cards.iter().zip(nodes);
    let lines = lines.map(|(card, node)| format!("link set {card} netns {} name eth0\n", node.name()));
    finish(Command::new("ip").args(["-batch", "-"]), &lines.collect::<String>(), LIMIT).map(drop)
}

/// Lists the cards with this driver in the current namespace.
fn cards() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for interface in fs::read_dir("/sys/class/net").context("list the interfaces")? {
        let interface = interface?;
        // Virtual interfaces have no driver.
        if fs::read_link(interface.path().join("device/driver")).is_ok_and(|driver| driver.ends_with(DRIVER))
        {
            names.push(interface.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}
