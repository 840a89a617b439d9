//! `CONFIG`: what the programs know of the node.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::{Array, MapData};
use flannel_common::abi;
use flannel_common::node::NodeConfig;

use super::take;
use crate::dataplane::kernel::conntrack::Proofs;

/// The map, and its content.
pub struct ConfigMap {
    map: Array<MapData, NodeConfig>,
    node: NodeConfig,
    written: NodeConfig,
}

impl ConfigMap {
    /// Writes the node. Senders are not checked yet, unless those of the `previous` node were: with an empty map of leases,
    /// every sender is unknown. [`NodeConfig::only_checked`] stays as it was: [`Self::set_only_checked`] sets it. Proofs of the previous
    /// agent's time end: nobody knows what has changed since it ended.
    pub(super) fn open(ebpf: &mut Ebpf, node: NodeConfig, previous: Option<&NodeConfig>) -> Result<Self> {
        let map = Array::try_from(take(ebpf, abi::CONFIG)?)?;
        let previous = previous.copied().unwrap_or_default();
        let NodeConfig { only_checked, generation, .. } = previous;
        let node = NodeConfig { only_checked, generation: following(generation), ..node };
        let first = without_new_checks(&node, &previous);
        let mut config = Self { map, node, written: first };
        config.write(first)?;
        Ok(config)
    }

    /// Returns the node, as the programs know it once [`Self::enable_sender_check`] was called.
    pub(super) const fn node(&self) -> &NodeConfig {
        &self.node
    }

    /// Lets the programs check senders as the node wants it, now that the maps of leases are complete.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn enable_sender_check(&mut self) -> Result<()> {
        if self.written == self.node { Ok(()) } else { self.write(self.node) }
    }

    /// Sets whether packets that no program has checked are dropped, where senders are checked.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn set_only_checked(&mut self, only_checked: bool) -> Result<()> {
        let only_checked = only_checked.into();
        self.node.only_checked = only_checked;
        let written = NodeConfig { only_checked, ..self.written };
        if self.written == written { Ok(()) } else { self.write(written) }
    }

    /// Sets where XDP is attached, as of [`NodeConfig::xdp`].
    pub(super) fn set_xdp(&mut self, xdp: u32) -> Result<()> {
        self.node.xdp = xdp;
        self.write(NodeConfig { xdp, ..self.written })
    }

    /// Sets what is left to the floor, as of [`NodeConfig::floor`].
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn set_floor(&mut self, floor: u32) -> Result<()> {
        if self.written.floor == floor {
            return Ok(());
        }
        self.node.floor = floor;
        self.write(NodeConfig { floor, ..self.written })
    }

    /// Ends all proofs of flows: each flow has to be proven again by a packet that passes the host stack.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn end_proofs(&mut self) -> Result<()> {
        let generation = following(self.node.generation);
        self.node.generation = generation;
        self.write(NodeConfig { generation, ..self.written })
    }

    /// Sets how long proofs of flows hold.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn set_proofs(&mut self, proofs: Proofs) -> Result<()> {
        let Proofs { tcp: tcp_proof, udp: udp_proof, translated: translated_proof } = proofs;
        let with = |node| NodeConfig { tcp_proof, udp_proof, translated_proof, ..node };
        self.node = with(self.node);
        let written = with(self.written);
        if self.written == written { Ok(()) } else { self.write(written) }
    }

    fn write(&mut self, node: NodeConfig) -> Result<()> {
        self.map.set(0, node, 0).context("writing the node's facts to the BPF map CONFIG")?;
        self.written = node;
        Ok(())
    }
}

/// Returns the generation that follows. 0 is none.
const fn following(generation: u32) -> u32 {
    if generation == u32::MAX { 1 } else { generation + 1 }
}

fn without_new_checks(node: &NodeConfig, previous: &NodeConfig) -> NodeConfig {
    let mut first = *node;
    first.v4.source_check = first.v4.source_check.min(previous.v4.source_check);
    first.v6.source_check = first.v6.source_check.min(previous.v6.source_check);
    first
}
