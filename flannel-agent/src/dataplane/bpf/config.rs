//! `CONFIG`: what the programs know of the node.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::{Array, MapData};
use flannel_common::abi;
use flannel_common::node::Node;

use super::take;

/// The map, and its content.
pub struct Config {
    map: Array<MapData, Node>,
    node: Node,
    written: Node,
}

impl Config {
    /// Writes the node. Senders are not checked yet, unless those of the `previous` node were: with an empty map of leases,
    /// every sender is unknown.
    pub(super) fn open(ebpf: &mut Ebpf, node: Node, previous: Option<&Node>) -> Result<Self> {
        let map = Array::try_from(take(ebpf, abi::CONFIG)?)?;
        let first = without_new_checks(&node, previous.unwrap_or(&Node::default()));
        let mut config = Self { map, node, written: first };
        config.write(first)?;
        Ok(config)
    }

    /// Returns the node, as the programs know it once [`Self::enable_sender_check`] was called.
    pub(super) const fn node(&self) -> &Node {
        &self.node
    }

    /// Lets the programs check senders as the node wants it, now that the maps of leases are complete.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn enable_sender_check(&mut self) -> Result<()> {
        if self.written == self.node { Ok(()) } else { self.write(self.node) }
    }

    /// Sets where XDP is attached, as of [`Node::xdp`].
    pub(super) fn set_xdp(&mut self, xdp: u32) -> Result<()> {
        self.node.xdp = xdp;
        self.write(Node { xdp, ..self.written })
    }

    fn write(&mut self, node: Node) -> Result<()> {
        self.map.set(0, node, 0).context("writing the node's facts to the BPF map CONFIG")?;
        self.written = node;
        Ok(())
    }
}

fn without_new_checks(node: &Node, previous: &Node) -> Node {
    let mut first = *node;
    first.v4.source_check = first.v4.source_check.min(previous.v4.source_check);
    first.v6.source_check = first.v6.source_check.min(previous.v6.source_check);
    first
}
