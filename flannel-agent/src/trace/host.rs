//! What the host stack does with a packet: routes, neighbours, bridge and vxlan device, as the kernel's tables have them.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use flannel_common::outcome::{Hook, Outcome};

use super::journey::Journey;
use super::report::{Carrier, End, Step};
use crate::dataplane::kernel::interface::{Interface, Kind};
use crate::dataplane::kernel::lookup::{Question, Way};
use crate::mac::Mac;

/// Where frames to the next node or pod go.
struct Exit {
    interface: Interface,
    /// The router, or the destination itself.
    next: IpAddr,
    mac: Option<Mac>,
}

impl Journey {
    /// Through the host stack to the end. `input`: where a forwarded packet came in.
    pub(super) async fn through_host(&mut self, input: Option<&Interface>) -> Result<End> {
        let forwarded = input.map(|input| (self.packet.source, input.index));
        let destination = self.packet.destination;
        let exit = match self.exit(Question { destination, forwarded }).await? {
            Ok(exit) => exit,
            Err(end) => return Ok(end),
        };
        let (mtu, device) = (exit.interface.mtu, &exit.interface.name);
        if u32::from(self.packet.bytes) > mtu {
            // IPv6 has no router cut packets.
            let cuts = if self.packet.source.is_ipv4() { "cuts the packet, or " } else { "" };
            let reason = format!(
                "{} bytes exceed the MTU {mtu} of {device}: the host {cuts}answers that it is too big",
                self.packet.bytes
            );
            return Ok(End::Lost { reason });
        }
        match exit.interface.kind {
            Kind::Vxlan => self.out_of_overlay(exit, input).await,
            Kind::Bridge => self.out_of_bridge(exit, input).await,
            Kind::Other => self.out_as_it_is(exit, input).await,
        }
    }

    /// Routes the packet and looks its neighbour up.
    async fn exit(&mut self, question: Question) -> Result<std::result::Result<Exit, End>> {
        let destination = question.destination;
        let (index, gateway) = match self.kernel.way(question).await? {
            Way::Local => return Ok(Err(End::Local)),
            Way::Refused(why) => return Ok(Err(self.refused(question, why).await?)),
            Way::Out(index, gateway) => (index, gateway),
        };
        let interface = self.interface(index).await?;
        let (device, mtu) = (interface.name.clone(), interface.mtu);
        self.steps.push(Step::Route { destination, device, mtu, gateway });
        let next = gateway.unwrap_or(destination);
        let mac = if interface.mac.is_some() { self.neighbour(&interface, next).await? } else { None };
        Ok(Ok(Exit { interface, next, mac }))
    }

    /// Why the host does not route a packet. Of its own packets the kernel tells more exactly.
    async fn refused(&self, question: Question, why: &str) -> Result<End> {
        let destination = question.destination;
        let reason = match self.kernel.way(Question { forwarded: None, ..question }).await? {
            Way::Refused(why) => format!("the host has no way to {destination}: {why}"),
            Way::Local | Way::Out(..) => format!("the host does not forward it to {destination}: {why}"),
        };
        Ok(End::Lost { reason })
    }

    /// Out of an interface that wraps nothing, past the program there that looks for flows without a tunnel.
    async fn out_as_it_is(&mut self, exit: Exit, input: Option<&Interface>) -> Result<End> {
        let Exit { interface, mac, .. } = exit;
        if let (Some(mac), Some(own)) = (mac, interface.mac)
            && self.notes_direct_flows(&interface)
        {
            let frame = self.packet.frame(mac.0, own.0, routers(input));
            let received_on = input.map_or(0, |input| input.index);
            self.run(Hook::UnderlayEgress, &interface, received_on, &frame).await?;
        }
        Ok(End::Leaves { device: interface.name, node: None, by: Carrier::Kernel })
    }

    /// Whether it is the uplink of a node whose flows to peers on its link skip the stack.
    fn notes_direct_flows(&self, interface: &Interface) -> bool {
        let is_direct = self.programs.as_ref().is_some_and(|programs| programs.node().direct_routing != 0);
        is_direct && self.ours().is_some_and(|ours| ours.uplink == interface.index)
    }

    pub(super) async fn neighbour(&mut self, interface: &Interface, address: IpAddr) -> Result<Option<Mac>> {
        let entry = self.kernel.neighbour(interface.index, address).await?;
        let (mac, state) = entry.map_or((None, "absent"), |entry| (entry.mac, entry.state));
        self.steps.push(Step::Neighbour { address, device: interface.name.clone(), mac, state });
        Ok(mac)
    }

    /// Out of the vxlan device: by its program, or wrapped by the device itself.
    async fn out_of_overlay(
        &mut self,
        Exit { interface, next, mac }: Exit,
        input: Option<&Interface>,
    ) -> Result<End> {
        let Some(mac) = mac else {
            let reason = format!(
                "{} has no MAC for {next}: the kernel asks the agent, which answers if a lease holds it",
                interface.name
            );
            return Ok(End::Lost { reason });
        };
        if let Some(vtep) = interface.mac.filter(|_| self.is_overlay(&interface)) {
            let frame = self.packet.frame(mac.0, vtep.0, routers(input));
            let received_on = input.map_or(0, |input| input.index);
            match self.run(Hook::OverlayEgress, &interface, received_on, &frame).await? {
                Some(run) if run.outcome == Outcome::Encapsulated => return self.wrapped(&run).await,
                _ => {}
            }
        }
        self.through_tunnel(&interface, mac).await
    }

    /// Wrapped by the vxlan device itself, for the node behind which its FDB has this MAC.
    pub(super) async fn through_tunnel(&mut self, device: &Interface, mac: Mac) -> Result<End> {
        let node = self.kernel.tunnel_end(device.index, mac).await?;
        self.steps.push(Step::TunnelEnd { mac, device: device.name.clone(), node });
        match node {
            Some(node) => self.underlay(node, Carrier::Kernel).await,
            None => Ok(End::Lost { reason: format!("{} does not know which node has {mac}", device.name) }),
        }
    }

    /// Whether the programs work for this device.
    fn is_overlay(&self, interface: &Interface) -> bool {
        self.ours().is_some_and(|ours| ours.device == interface.index)
    }

    /// Out of the port of the bridge behind which the pod is.
    async fn out_of_bridge(
        &mut self,
        Exit { interface, next, mac }: Exit,
        input: Option<&Interface>,
    ) -> Result<End> {
        let port = match mac {
            Some(mac) => self.port(&interface, mac).await?,
            None => None,
        };
        let (Some(port), Some(pod), Some(gateway)) = (port, mac, interface.mac) else {
            let reason = format!(
                "no pod with {next} is known at {}: the host asks for it by ARP or ND",
                interface.name
            );
            return Ok(End::Lost { reason });
        };
        if self.has_flow_cache() {
            let frame = self.packet.frame(pod.0, gateway.0, routers(input) + 1);
            let received_on = input.map_or(0, |input| input.index);
            self.run(Hook::PodIngress, &port, received_on, &frame).await?;
        }
        Ok(End::Delivered { device: port.name, by: Carrier::Kernel })
    }

    /// Whether programs are on pods' ports.
    pub(super) fn has_flow_cache(&self) -> bool {
        self.programs.as_ref().is_some_and(|programs| programs.node().flow_cache != 0)
    }

    /// The interface behind which a bridge has learnt a MAC.
    pub(super) async fn port(&self, bridge: &Interface, mac: Mac) -> Result<Option<Interface>> {
        match self.kernel.bridge_port(bridge.index, mac).await? {
            Some(index) => self.kernel.interface(index).await,
            None => Ok(None),
        }
    }

    /// The last stretch of a wrapped packet: to the node over the underlay.
    pub(super) async fn underlay(&mut self, node: IpAddr, by: Carrier) -> Result<End> {
        match self.exit(Question { destination: node, forwarded: None }).await? {
            Ok(exit) => Ok(End::Leaves { device: exit.interface.name, node: Some(node), by }),
            Err(end) => Ok(end),
        }
    }

    /// An interface that has to be there.
    pub(super) async fn interface(&self, index: u32) -> Result<Interface> {
        let found = self.kernel.interface(index).await?;
        found
            .with_context(|| format!("there is no interface {index}: is this the agent's network namespace?"))
    }
}

/// How many routers this host is to a packet that came in there.
fn routers(input: Option<&Interface>) -> u8 {
    input.map_or(0, |_| 1)
}
