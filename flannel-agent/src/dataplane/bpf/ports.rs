//! Bridge ports of pods: programs are attached and detached as pods come and go.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use flannel_common::abi;
use flannel_common::outcome::Hook;
use tracing::debug;

use super::link::Link;
use super::pins::{Pins, link_name};
use super::{Bpf, attach, program, take};
use crate::dataplane::obstacle::PodPort;

/// `PORTS`: the MACs of pods by port.
pub(super) struct PortMacs(HashMap<MapData, u32, [u8; 6]>);

impl PortMacs {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self> {
        Ok(Self(HashMap::try_from(take(ebpf, abi::PORTS)?)?))
    }

    /// Makes the map hold exactly these.
    fn set(&mut self, wanted: &BTreeMap<u32, [u8; 6]>) -> Result<()> {
        let known: BTreeMap<_, _> =
            self.0.iter().collect::<Result<_, _>>().context("reading the BPF map PORTS")?;
        for (port, mac) in wanted.iter().filter(|(port, mac)| known.get(port) != Some(mac)) {
            self.0.insert(port, mac, 0).context("writing the BPF map PORTS")?;
        }
        for port in known.keys().filter(|port| !wanted.contains_key(port)) {
            self.0.remove(port).context("removing from the BPF map PORTS")?;
        }
        Ok(())
    }
}

/// What a pod sends, and what it receives.
const HOOKS: [Hook; 2] = [Hook::PodEgress, Hook::PodIngress];

impl Bpf {
    /// Makes exactly those of the ports take the shortcut that can: detaches the programs from others, and has ports that do not have them
    /// wait for [`Self::attach_next`]. Returns what failed.
    pub fn follow(&mut self, ports: &[PodPort]) -> Vec<anyhow::Error> {
        let mut errors = Vec::new();
        let macs =
            ports.iter().filter_map(|port| Some((port.index, port.shortcut.as_ref().ok()?.0))).collect();
        // Before the programs there are attached, which prove no flow without it.
        errors.extend(self.port_macs.set(&macs).err());
        let mut before = std::mem::take(&mut self.inherited);
        before.append(&mut self.ports.clone());
        let open = ports.iter().filter(|port| port.is_open()).map(|port| port.index).collect();
        errors.extend(self.detach_ports(&before.difference(&open).copied().collect(), &open).err());
        // Others may have detached them.
        let attached = ports.iter().filter(|port| port.is_attached).map(|port| port.index);
        self.ports = attached.filter(|index| self.ports.contains(index) && open.contains(index)).collect();
        let new = ports.iter().filter(|port| port.is_open() && !self.ports.contains(&port.index));
        self.waiting.ports = new.cloned().collect();
        self.inherited = self.waiting.ports.iter().filter_map(|port| before.take(&port.index)).collect();
        errors
    }

    /// Attaches the programs to a port, in place of an earlier agent's.
    pub(super) fn attach_port(&mut self, PodPort { index, name, .. }: &PodPort) -> Result<()> {
        for hook in HOOKS {
            let link = port_link(hook, *index);
            let program = program(&mut self.ebpf, hook)?;
            attach::attach(program, hook, name, &link, true, &self.pins)
                .with_context(|| format!("attaching {} to {name}", hook.program()))
                .inspect_err(|_| self.inherited.extend([index]))?;
        }
        self.inherited.remove(index);
        self.ports.insert(*index);
        debug!(port = name, "pod port takes the shortcut");
        Ok(())
    }

    /// Detaches the programs from these ports, some of which may be gone. Keeps only flows that are delivered to `open`
    /// ports. What proves flows is detached at once, so that it proves none while they are removed: removing its pin would end
    /// the link some time later.
    fn detach_ports(&mut self, ports: &BTreeSet<u32>, open: &BTreeSet<u32>) -> Result<()> {
        if ports.is_empty() {
            return Ok(());
        }
        for (index, hook) in ports.iter().flat_map(|index| HOOKS.map(|hook| (*index, hook))) {
            let pin = port_link(hook, index);
            if hook == Hook::PodIngress
                && let Ok(link) = Link::pinned(&self.pins.path(&pin))
                && let Err(error) = link.detach()
            {
                debug!(%error, index, "the program of a pod's port is not detached at once");
            }
            self.pins.remove(&pin)?;
            if let Some(name) = attach::interface_name(index) {
                attach::detach_clsact(hook, &name, self.pins.vni());
            }
        }
        self.flows.keep(open)
    }
}

/// Returns the indexes of the ports with pinned links.
pub(super) fn pinned(pins: &Pins) -> BTreeSet<u32> {
    HOOKS.into_iter().flat_map(|hook| pins.indexes(hook)).collect()
}

fn port_link(hook: Hook, index: u32) -> String {
    link_name(hook, format_args!("_{index}"))
}
