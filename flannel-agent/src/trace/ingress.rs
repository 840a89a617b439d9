//! Traces packets from another node to a pod of this node, or to the host itself.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use flannel_common::outcome::{Hook, Outcome, Verdict};

use super::filter::OuterPacket;
use super::journey::Journey;
use super::packet::{Envelope, encapsulate};
use super::report::{TraceEnd, TraceStep};
use crate::dataplane::bpf::dry_run::DryRun;
use crate::dataplane::bpf::dry_run::known::OurEnd;
use crate::mac::Mac;
use crate::netlink::link::{Link, LinkKind, VxlanOptions};
use crate::netlink::route::{Hop, RouteAnswer, RouteQuery};

/// Inner source MAC of a packet whose sender has no lease. Programs do not read it.
const SOME_VTEP: Mac = Mac([0x02, 0, 0, 0, 0, 2]);

impl Journey {
    /// Follows the packet from the uplink to its end.
    pub(super) async fn ingress(&mut self) -> Result<TraceEnd> {
        self.begin(self.packet.source, false)?;
        let query = RouteQuery { destination: self.packet.source, forwarded: None };
        let back = match self.kernel.route(query).await? {
            RouteAnswer::Out(hop) => Some(self.interface(hop.interface).await?),
            RouteAnswer::Local(_) | RouteAnswer::Refused(_) => None,
        };
        match (self.ours(), back) {
            (Some(ours), back) if self.arrives_encapsulated(&ours, back.as_ref()) => {
                self.decapsulate(&ours).await
            }
            (ours, Some(input)) => {
                self.steps.push(TraceStep::note(format!(
                    "it arrives by {}, the interface of the route back",
                    input.name
                )));
                if let LinkKind::Vxlan(options) = &input.kind
                    && let Some(end) = self.received_by_kernel(&input, options).await?
                {
                    return Ok(end);
                }
                if ours.is_some_and(|ours| ours.uplink == input.index)
                    && let Some(end) = self.arrives_as_it_is(&input).await?
                {
                    return Ok(end);
                }
                self.through_host(Some(&input)).await
            }
            (_, None) => {
                bail!("the host cannot route to {}, so no packet is expected from there", self.packet.source)
            }
        }
    }

    /// Returns true if the packet is expected in VXLAN, by the route `back` to its source.
    fn arrives_encapsulated(&self, ours: &OurEnd, back: Option<&Link>) -> bool {
        let has_device = ours.device != 0;
        has_device && (self.sender.is_some() || back.is_none_or(|back| back.index == ours.device))
    }

    /// Runs the uplink's program on a packet without a tunnel. Returns the end if the program delivers it.
    async fn arrives_as_it_is(&mut self, uplink: &Link) -> Result<Option<TraceEnd>> {
        let Some(mac) = uplink.mac else { return Ok(None) };
        let frame = self.packet.frame(mac.0, self.sender_mac().0, 1);
        match self.run(Hook::UnderlayIngress, uplink, uplink.index, &frame).await? {
            Some(run) if run.outcome == Outcome::Delivered => {
                self.delivered(self.port_of_flow()?).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Follows a VXLAN packet past the programs on uplink and vxlan device.
    async fn decapsulate(&mut self, ours: &OurEnd) -> Result<TraceEnd> {
        let (uplink, overlay) = (self.interface(ours.uplink).await?, self.interface(ours.device).await?);
        let mut frame = self.packet.frame(ours.vtep_mac.0, self.sender_mac().0, 1);
        let sent = self.sent(ours, &uplink, &frame)?;
        for (hook, at) in [(Hook::UnderlayIngress, &uplink), (Hook::OverlayIngress, &overlay)] {
            let arriving = if hook == Hook::UnderlayIngress { &sent } else { &frame };
            let run = self.run(hook, at, at.index, arriving).await?;
            let verdict = run.as_ref().map(|run| run.outcome.verdict());
            if hook == Hook::UnderlayIngress
                && !matches!(verdict, Some(Verdict::Carried | Verdict::Dropped))
                && let LinkKind::Vxlan(options) = &overlay.kind
            {
                self.steps.push(TraceStep::note(format!("{} decapsulates it", overlay.name)));
                let source = Some(self.node_of_sender()?);
                let outer = OuterPacket { source, destination: ours.local_ip, port: options.port };
                if let Some(end) = self.pass_outer(outer, &uplink.name, true).await? {
                    return Ok(end);
                }
            }
            let Some(run) = run else { continue };
            match run.outcome {
                Outcome::Delivered => return self.delivered(self.port_of_flow()?).await,
                Outcome::Decapsulated => frame = run.frame,
                outcome if outcome.verdict() == Verdict::Dropped => return Ok(Self::dropped(hook, outcome)),
                _ => {}
            }
        }
        self.through_host(Some(&overlay)).await
    }

    /// Returns the frame that the peer sends.
    fn sent(&self, ours: &OurEnd, uplink: &Link, frame: &[u8]) -> Result<Vec<u8>> {
        let sender = self.node_of_sender()?;
        let Mac(mac) = uplink.mac.with_context(|| format!("{} has no MAC", uplink.name))?;
        let node = self.programs.as_ref().context("no programs are open")?.node();
        let (port, vni) = (u16::from_be_bytes(node.port), node.vni);
        Ok(encapsulate(frame, &Envelope { sender, to: ours.local_ip, port, vni, mac }))
    }

    /// Returns the public address of the node that sends the packet.
    fn node_of_sender(&self) -> Result<IpAddr> {
        let source = self.packet.source;
        let holder = self.lease(source).map(|(_, lease)| lease.public_ip);
        let Some(sender) = self.sender.or(holder) else {
            bail!("no lease holds {source}: which node sends it? Name its public address by --sender");
        };
        Ok(sender)
    }

    /// Takes the outer packet that a vxlan device without programs receives past the rules. Returns its end if one stops it.
    async fn received_by_kernel(
        &mut self,
        overlay: &Link,
        options: &VxlanOptions,
    ) -> Result<Option<TraceEnd>> {
        let Some(destination) = options.local else { return Ok(None) };
        let uplink = self.interface(options.uplink_index).await?;
        let source = match self.sender {
            Some(sender) => Some(sender),
            None => self.node_behind(overlay).await?,
        };
        let outer = OuterPacket { source, destination, port: options.port };
        self.pass_outer(outer, &uplink.name, true).await
    }

    /// Returns the node to which packets for the packet's source go by this vxlan device, if its entries say so.
    async fn node_behind(&self, overlay: &Link) -> Result<Option<IpAddr>> {
        let destination = self.packet.source;
        let RouteAnswer::Out(Hop { gateway, .. }) =
            self.kernel.route(RouteQuery { destination, forwarded: None }).await?
        else {
            return Ok(None);
        };
        let entry = self.kernel.neighbour(overlay.index, gateway.unwrap_or(destination)).await?;
        match entry.and_then(|entry| entry.mac) {
            Some(mac) => self.kernel.tunnel_end(overlay.index, mac).await,
            None => Ok(None),
        }
    }

    fn sender_mac(&self) -> Mac {
        self.lease(self.packet.source).map_or(SOME_VTEP, |(_, lease)| lease.vtep_mac)
    }

    /// Returns the interface of the flow's pod. A program delivers only flows that the flow table has.
    fn port_of_flow(&self) -> Result<u32> {
        let port = self.programs.as_ref().and_then(DryRun::port);
        port.context("a program delivered a flow that is not in the flow table")
    }
}
