//! From another node to a pod of this one, or to the host itself.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, bail};
use flannel_common::node::Node;
use flannel_common::outcome::{Hook, Outcome, Verdict};

use super::journey::Journey;
use super::packet::wrapped;
use super::report::{End, Step};
use crate::dataplane::bpf::dry_run::DryRun;
use crate::dataplane::kernel::interface::Interface;
use crate::dataplane::kernel::lookup::{Question, Way};
use crate::mac::Mac;

/// MAC of a node that no lease tells of; no program looks at it.
const SOME_VTEP: [u8; 6] = [0x02, 0, 0, 0, 0, 2];

impl Journey {
    /// From the uplink to wherever it gets.
    pub(super) async fn ingress(&mut self) -> Result<End> {
        self.begin(self.packet.source, false)?;
        let node = self.programs.as_ref().map(|programs| *programs.node());
        let question = Question { destination: self.packet.source, forwarded: None };
        let back = match self.kernel.way(question).await? {
            Way::Out(index, _) => Some(self.interface(index).await?),
            Way::Local | Way::Refused(_) => None,
        };
        match (node, back) {
            (Some(node), back) if self.comes_wrapped(&node, back.as_ref()) => {
                self.unwrap_by_programs(&node).await
            }
            (_, Some(input)) => {
                self.steps
                    .push(Step::note(format!("it arrives by {}, where the way back leads", input.name)));
                self.through_host(Some(&input)).await
            }
            (_, None) => {
                bail!("the host has no way to {}, so nothing is expected from there", self.packet.source)
            }
        }
    }

    /// Whether the packet is expected in VXLAN, and not as it is: from the host's own way back.
    fn comes_wrapped(&self, node: &Node, back: Option<&Interface>) -> bool {
        self.sender.is_some() || back.is_none_or(|back| back.index == node.overlay_ifindex)
    }

    /// In VXLAN, past the programs on uplink and vxlan device.
    async fn unwrap_by_programs(&mut self, node: &Node) -> Result<End> {
        let (uplink, overlay) =
            (self.interface(node.uplink_ifindex).await?, self.interface(node.overlay_ifindex).await?);
        let mut frame = self.frame(node.vtep_mac, self.sender_mac(), 1)?;
        let sent = self.sent(node, &uplink, &frame)?;
        for (hook, at) in [(Hook::UnderlayIngress, &uplink), (Hook::OverlayIngress, &overlay)] {
            let arriving = if hook == Hook::UnderlayIngress { &sent } else { &frame };
            let Some(run) = self.run(hook, at, arriving).await? else { continue };
            match run.outcome {
                Outcome::Delivered => return self.delivered(self.port_of_flow()?).await,
                Outcome::Decapsulated => frame = run.frame,
                outcome if outcome.verdict() == Verdict::Dropped => return Ok(Self::dropped(hook, outcome)),
                _ if hook == Hook::UnderlayIngress => {
                    self.steps.push(Step::note(format!("{} unwraps it", overlay.name)));
                }
                _ => {}
            }
        }
        self.through_host(Some(&overlay)).await
    }

    /// What the peer puts on the wire.
    fn sent(&self, node: &Node, uplink: &Interface, frame: &[u8]) -> Result<Vec<u8>> {
        let source = self.packet.source;
        let holder = self.lease(source).map(|(_, lease)| Ipv4Addr::from(lease.public_ip));
        let Some(sender) = self.sender.or(holder) else {
            bail!("no lease holds {source}: which node sends it? Name its public address by --sender");
        };
        let Mac(mac) = uplink.mac.with_context(|| format!("{} has no MAC", uplink.name))?;
        let port = u16::from_be_bytes(node.port);
        Ok(wrapped(frame, sender, node.local_ip.into(), port, node.vni, mac))
    }

    fn sender_mac(&self) -> [u8; 6] {
        self.lease(self.packet.source).map_or(SOME_VTEP, |(_, lease)| lease.vtep_mac)
    }

    /// Where the flow's pod is, which only the node's own entry can have said.
    fn port_of_flow(&self) -> Result<u32> {
        let flow =
            self.programs.as_ref().and_then(DryRun::flow).context("a flow that is delivered is known")?;
        Ok(flow.port.ifindex)
    }
}
