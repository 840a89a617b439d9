//! Interfaces beside the uplink: the sender check is attached and detached as they come and go.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use flannel_common::node::{NodeConfig, SOURCE_CHECK_OFF};
use flannel_common::outcome::Hook;

use super::attach::{self, Mechanism};
use super::link::Link;
use super::pins::link_name;
use super::{Bpf, program};
use crate::dataplane::kernel::{Kernel, Side};

const HOOK: Hook = Hook::SideIngress;

impl Bpf {
    /// Returns whether senders are checked, in either family.
    #[must_use]
    pub fn checks_senders(&self) -> bool {
        let NodeConfig { v4, v6, .. } = self.config.node();
        [v4.source_check, v6.source_check].iter().any(|mode| *mode != SOURCE_CHECK_OFF)
    }

    /// Returns the indexes of uplinks and vxlan devices, which have programs of their own.
    #[must_use]
    pub fn own_interfaces(&self) -> [u32; 4] {
        let NodeConfig { v4, v6, .. } = self.config.node();
        [v4.overlay_ifindex, v4.uplink_ifindex, v6.overlay_ifindex, v6.uplink_ifindex]
    }

    /// Detaches the program from interfaces that are not among these. To be called before [`Self::follow`]: some of them
    /// may have become ports of pods.
    ///
    /// # Errors
    /// A pin cannot be removed.
    pub fn leave_sides(&mut self, sides: &[Side]) -> Result<()> {
        let wanted: BTreeSet<u32> = sides.iter().map(|side| side.index).collect();
        let pinned = self.pins.indexes(HOOK);
        for index in self.sides.union(&pinned).filter(|index| !wanted.contains(index)) {
            self.pins.remove(&side_link(*index))?;
            if let Some(name) = attach::interface_name(*index) {
                attach::detach_clsact(HOOK, &name, self.pins.vni());
            }
        }
        self.sides.retain(|index| wanted.contains(index));
        // What an earlier agent left there is not detached but replaced.
        for Side { name, .. } in sides.iter().filter(|side| self.inherited.remove(&side.index)) {
            attach::detach_clsact(Hook::PodIngress, name, self.pins.vni());
        }
        Ok(())
    }

    /// Has those of these interfaces wait for [`Self::attach_next`] that do not have the program. To be called after [`Self::follow`].
    pub async fn follow_sides(&mut self, sides: &[Side], kernel: &Kernel) {
        self.waiting.sides.clear();
        for side in sides {
            // It may have become a pod's port since they were listed.
            if !self.is_port(side.index) && !self.is_followed(side, kernel).await {
                self.waiting.sides.push_back(side.clone());
            }
        }
    }

    /// Returns whether the program is attached. Others may detach it, or delete the shared clsact qdisc, and with it the program.
    async fn is_followed(&self, Side { index, .. }: &Side, kernel: &Kernel) -> bool {
        if !self.sides.contains(index) {
            return false;
        }
        match self.mechanism {
            Mechanism::Tcx => {
                let link = Link::pinned(&self.pins.path(&side_link(*index)));
                link.and_then(|link| link.attachment()).is_ok_and(|(interface, _)| interface == *index)
            }
            Mechanism::Clsact => {
                attach::has_filter(HOOK, *index, self.pins.vni(), kernel).await.unwrap_or(false)
            }
        }
    }

    fn is_port(&self, index: u32) -> bool {
        self.ports.contains(&index) || self.waiting.ports.iter().any(|port| port.index == index)
    }

    /// Attaches the program to an interface, in place of an earlier agent's.
    pub(super) fn attach_side(&mut self, Side { index, name }: &Side) -> Result<()> {
        let program = program(&mut self.ebpf, HOOK)?;
        attach::attach(program, HOOK, name, &side_link(*index), true, &self.pins)
            .with_context(|| format!("attaching {} to {name}", HOOK.program()))?;
        self.sides.insert(*index);
        Ok(())
    }
}

fn side_link(index: u32) -> String {
    link_name(HOOK, format_args!("_{index}"))
}
