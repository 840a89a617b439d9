//! The pods' bridge ports: programs on and off as pods come and go.

use std::collections::BTreeSet;
use std::fmt::Display;

use anyhow::{Context as _, Result};
use flannel_common::outcome::Hook;
use nix::net::if_::if_indextoname;
use tracing::debug;

use super::pins::Pins;
use super::{Bpf, attach, flows, program};
use crate::dataplane::kernel::PodPort;

/// What a pod sends, and what it gets.
const HOOKS: [Hook; 2] = [Hook::PodEgress, Hook::PodIngress];

impl Bpf {
    /// Has exactly the ports among these that can take the shortcut take it.
    pub fn follow(&mut self, ports: &[PodPort]) -> Vec<anyhow::Error> {
        let mut errors = Vec::new();
        let mut before = std::mem::take(&mut self.inherited);
        before.append(&mut self.ports.clone());
        let open = ports.iter().filter(|port| port.is_open()).map(|port| port.index).collect();
        errors.extend(self.unplug(&before.difference(&open).copied().collect(), &open).err());
        self.ports.retain(|index| open.contains(index));
        for port in ports.iter().filter(|port| port.is_open()) {
            match self.plug(port) {
                Ok(()) => _ = self.ports.insert(port.index),
                // It has just gone; that is about to be heard of.
                Err(_) if if_indextoname(port.index).is_err() => {}
                Err(error) => errors.push(error),
            }
        }
        errors
    }

    fn plug(&mut self, PodPort { index, name, .. }: &PodPort) -> Result<()> {
        if self.ports.contains(index) {
            return Ok(());
        }
        for hook in HOOKS {
            let link = link_name(hook, index);
            let program = program(&mut self.ebpf, hook)?;
            attach::attach(program, hook, name, &link, true, &self.pins)
                .with_context(|| format!("attaching {} to {name}", hook.program()))
                .inspect_err(|_| self.inherited.extend([index]))?;
        }
        debug!(port = name, "pod port takes the shortcut");
        Ok(())
    }

    /// Takes the programs off ports that may be gone already. Flows must be delivered to `open` ones only.
    fn unplug(&mut self, ports: &BTreeSet<u32>, open: &BTreeSet<u32>) -> Result<()> {
        if ports.is_empty() {
            return Ok(());
        }
        for (index, hook) in ports.iter().flat_map(|index| HOOKS.map(|hook| (*index, hook))) {
            self.pins.remove(&link_name(hook, index))?;
            if let Ok(name) = if_indextoname(index)
                && let Ok(name) = name.into_string()
            {
                attach::detach_clsact(hook, &name);
            }
        }
        flows::keep(&mut self.v4.flows, open)?;
        flows::keep(&mut self.v6.flows, open)
    }
}

/// The ports that an earlier agent left pinned links of.
pub(super) fn pinned(pins: &Pins) -> BTreeSet<u32> {
    let index_in = |name: &str, hook| name.strip_prefix(&link_name(hook, ""))?.parse().ok();
    pins.names()
        .iter()
        .flat_map(|name| HOOKS.into_iter().filter_map(move |hook| index_in(name, hook)))
        .collect()
}

fn link_name(hook: Hook, index: impl Display) -> String {
    format!("{}_{index}", attach::link_name(hook))
}
