//! From a pod of this node, or from the host itself.

use anyhow::{Context as _, Result};
use flannel_common::outcome::{Hook, Outcome};

use super::journey::Journey;
use super::report::{Carrier, End, Step};
use crate::dataplane::kernel::interface::{Interface, Kind};
use crate::dataplane::kernel::lookup::{Question, Way};
use crate::mac::Mac;

/// A pod that is plugged in here.
struct Pod {
    mac: Mac,
    port: Interface,
}

impl Journey {
    /// From its source to wherever it gets.
    pub(super) async fn egress(&mut self) -> Result<End> {
        self.begin(self.packet.destination, true)?;
        let question = Question { destination: self.packet.source, forwarded: None };
        let Way::Out(index, _) = self.kernel.way(question).await? else {
            return self.through_host(None).await;
        };
        let gateway = self.interface(index).await?;
        match self.pod(&gateway).await? {
            Some(pod) => {
                if let Some(end) = self.out_of_pod(&pod, &gateway).await? {
                    return Ok(end);
                }
            }
            None => self.steps.push(Step::note(format!(
                "no pod with {} is known at {}: going on as if it were there",
                self.packet.source, gateway.name
            ))),
        }
        self.through_host(Some(&gateway)).await
    }

    /// The pod with the packet's source, if it has been heard of.
    async fn pod(&mut self, gateway: &Interface) -> Result<Option<Pod>> {
        let address = self.packet.source;
        let entry = self.kernel.neighbour(gateway.index, address).await?;
        let Some(mac) = entry.and_then(|entry| entry.mac) else { return Ok(None) };
        let port = match gateway.kind {
            Kind::Bridge => self.port(gateway, mac).await?,
            _ => Some(gateway.clone()),
        };
        let Some(port) = port else { return Ok(None) };
        self.steps.push(Step::Pod { address, mac, device: port.name.clone() });
        Ok(Some(Pod { mac, port }))
    }

    /// Past the program on the pod's port; the end, if it takes the packet over.
    async fn out_of_pod(&mut self, pod: &Pod, gateway: &Interface) -> Result<Option<End>> {
        let Some(gateway_mac) = gateway.mac.filter(|_| self.has_flow_cache()) else { return Ok(None) };
        let frame = self.packet.frame(gateway_mac.0, pod.mac.0, 0);
        match self.run(Hook::PodEgress, &pod.port, pod.port.index, &frame).await? {
            Some(run) if run.outcome == Outcome::Encapsulated => self.wrapped(&run).await.map(Some),
            Some(run) if run.outcome == Outcome::Forwarded => self.forwarded(pod, &run.frame).await.map(Some),
            Some(run) if run.outcome == Outcome::OnLink => self.on_link(pod, &run.frame).await.map(Some),
            _ => Ok(None),
        }
    }

    /// Past the host stack to a peer on the uplink's link, without a tunnel.
    async fn on_link(&mut self, pod: &Pod, frame: &[u8]) -> Result<End> {
        let (_, peer) = self.lease(self.packet.destination).context("a peer on the link has a lease")?;
        let ours = self.ours().context("what goes to a peer leaves by the uplink")?;
        let uplink = self.interface(ours.uplink).await?;
        self.run(Hook::UnderlayEgress, &uplink, pod.port.index, frame).await?;
        self.neighbour(&uplink, peer.public_ip).await?;
        Ok(End::Leaves { device: uplink.name, node: None, by: Carrier::Bpf })
    }

    /// Past the host stack to the vxlan device, which wraps what a program has sent there.
    async fn forwarded(&mut self, pod: &Pod, frame: &[u8]) -> Result<End> {
        let ours = self.ours().context("what is forwarded goes to the node's own vxlan device")?;
        let overlay = self.interface(ours.device).await?;
        self.run(Hook::OverlayEgress, &overlay, pod.port.index, frame).await?;
        let peer = frame.first_chunk().context("a program has made a frame without addresses")?;
        self.through_tunnel(&overlay, Mac(*peer)).await
    }
}
