//! Whether programs of others come before the agent's where packets come in from the underlay.

use anyhow::Result;
use flannel_common::node::NodeConfig;

use super::Bpf;
use super::attach::{self, Mechanism, PRIORITY};
use crate::dataplane::kernel::Kernel;
use crate::dataplane::obstacle::{Direction, Program};

impl Bpf {
    /// Returns the name of an uplink where a program or filter of others comes before the agent's. It may accept packets,
    /// which the agent's then do not see.
    ///
    /// If senders are not checked, it does not matter and none is returned.
    pub async fn preceded(&self, kernel: &Kernel) -> Option<String> {
        if !self.checks_senders() {
            return None;
        }
        let NodeConfig { v4, v6, .. } = self.config.node();
        for index in [v4.uplink_ifindex, v6.uplink_ifindex].into_iter().filter(|index| *index != 0) {
            // The kernel may not answer while the interface goes.
            if self.is_preceded(index, kernel).await.unwrap_or(false) {
                return attach::interface_name(index);
            }
        }
        None
    }

    async fn is_preceded(&self, index: u32, kernel: &Kernel) -> Result<bool> {
        if self.mechanism == Mechanism::Clsact {
            let first = kernel.first_filter(index, Direction::Ingress).await?;
            return Ok(first.is_some_and(|priority| priority < PRIORITY));
        }
        let attached = self.tcx_programs([index])?.remove(&(index, Direction::Ingress)).unwrap_or_default();
        let last = attached.iter().rposition(|program| *program == Program::Ours).unwrap_or(0);
        Ok(attached[..last].iter().any(|program| *program != Program::Ours))
    }
}
