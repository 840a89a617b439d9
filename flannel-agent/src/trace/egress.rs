//! Traces packets that a pod of this node, or the host itself, sends.

use anyhow::{Context as _, Result};
use flannel_common::outcome::{Hook, Outcome};

use super::journey::Journey;
use super::report::{Carrier, TraceEnd, TraceStep};
use crate::mac::Mac;
use crate::netlink::link::{Link, LinkKind};
use crate::netlink::route::{Hop, RouteAnswer, RouteQuery};

/// The pod of this node that sends the packet.
struct SendingPod {
    mac: Mac,
    port: Link,
}

impl Journey {
    /// Follows the packet from its source to its end.
    pub(super) async fn egress(&mut self) -> Result<TraceEnd> {
        self.begin(self.packet.destination, true)?;
        let query = RouteQuery { destination: self.packet.source, forwarded: None };
        let RouteAnswer::Out(Hop { interface: index, .. }) = self.kernel.route(query).await? else {
            return self.through_host(None).await;
        };
        let gateway = self.interface(index).await?;
        match self.pod(&gateway).await? {
            Some(pod) => {
                if let Some(end) = self.out_of_pod(&pod, &gateway).await? {
                    return Ok(end);
                }
            }
            None => self.steps.push(TraceStep::note(format!(
                "no pod with {} is known at {}: its port is left out",
                self.packet.source, gateway.name
            ))),
        }
        self.through_host(Some(&gateway)).await
    }

    /// Finds the pod with the packet's source address by neighbour entry and bridge FDB.
    async fn pod(&mut self, gateway: &Link) -> Result<Option<SendingPod>> {
        let address = self.packet.source;
        let entry = self.kernel.neighbour(gateway.index, address).await?;
        let Some(mac) = entry.and_then(|entry| entry.mac) else { return Ok(None) };
        let port = match gateway.kind {
            LinkKind::Bridge => self.port(gateway, mac).await?,
            _ => Some(gateway.clone()),
        };
        let Some(port) = port else { return Ok(None) };
        self.steps.push(TraceStep::Pod { address, mac, device: port.name.clone() });
        Ok(Some(SendingPod { mac, port }))
    }

    /// Runs the program on the pod's port. Returns the end if the program carries the packet.
    async fn out_of_pod(&mut self, pod: &SendingPod, gateway: &Link) -> Result<Option<TraceEnd>> {
        let Some(gateway_mac) = gateway.mac.filter(|_| self.has_flow_cache()) else { return Ok(None) };
        let frame = self.packet.frame(gateway_mac.0, pod.mac.0, 0);
        match self.run(Hook::PodEgress, &pod.port, pod.port.index, &frame).await? {
            Some(run) if run.outcome == Outcome::Encapsulated => {
                self.translate_by_flow()?;
                self.encapsulated(&run).await.map(Some)
            }
            Some(run) if run.outcome == Outcome::Forwarded => {
                self.translate_by_flow()?;
                self.forwarded(pod, &run.frame).await.map(Some)
            }
            Some(run) if run.outcome == Outcome::OnLink => {
                self.translate_by_flow()?;
                self.on_link(pod, &run.frame).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Follows a packet that skips the host stack to a peer on the uplink's link, without a tunnel.
    async fn on_link(&mut self, pod: &SendingPod, frame: &[u8]) -> Result<TraceEnd> {
        let (_, peer) = self.lease(self.packet.destination).context("the peer on the link has no lease")?;
        let ours = self.ours().context("the programs do not serve the packet's address family")?;
        let uplink = self.interface(ours.uplink).await?;
        self.run(Hook::UnderlayEgress, &uplink, pod.port.index, frame).await?;
        self.neighbour(&uplink, peer.public_ip).await?;
        Ok(TraceEnd::Leaves { device: uplink.name, node: None, by: Carrier::Bpf })
    }

    /// Follows a packet that skips the host stack to the vxlan device, which encapsulates it.
    async fn forwarded(&mut self, pod: &SendingPod, frame: &[u8]) -> Result<TraceEnd> {
        let ours = self.ours().context("the programs do not serve the packet's address family")?;
        let overlay = self.interface(ours.device).await?;
        self.run(Hook::OverlayEgress, &overlay, pod.port.index, frame).await?;
        let peer = frame.first_chunk().context("the program's frame has no destination MAC")?;
        self.through_tunnel(&overlay, Mac(*peer)).await
    }
}
