//! Traces packets through the host stack by the kernel's tables: rules, routes, neighbours, bridge FDB and vxlan FDB.

use std::fs;
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use flannel_common::outcome::{Hook, Outcome};

use super::filter::{InHost, OuterPacket};
use super::journey::Journey;
use super::report::{Carrier, TraceEnd, TraceStep};
use crate::mac::Mac;
use crate::netfilter::judge::packet::Part;
use crate::netfilter::rules::{Hook as Netfilter, Side};
use crate::netlink::link::{Link, LinkKind};
use crate::netlink::route::{Hop, RouteAnswer, RouteQuery};

/// The interface and next hop of a routed packet.
struct Exit {
    interface: Link,
    /// The gateway, or the destination itself.
    next_hop: IpAddr,
    mac: Option<Mac>,
}

impl Journey {
    /// Follows the packet through the host stack to its end. A forwarded packet came in by `input`.
    pub(super) async fn through_host(&mut self, input: Option<&Link>) -> Result<TraceEnd> {
        let mut host = self.enter(input).await?;
        if let Some(end) = self.arrive(&mut host, input.is_some()).await? {
            return Ok(end);
        }
        let mut forwarded = input.map(|input| (self.packet.source, input.index));
        let exit = loop {
            let destination = self.packet.destination;
            match self.exit(RouteQuery { destination, forwarded }).await? {
                Ok(exit) => break exit,
                Err(TraceEnd::Local) => match self.receive(&mut host).await? {
                    Some(end) => return Ok(end),
                    // The load balancer sends it on as the host's own.
                    None => forwarded = None,
                },
                Err(end) => return Ok(end),
            }
        };
        let (mtu, device) = (exit.interface.mtu, &exit.interface.name);
        if u32::from(self.packet.bytes) > mtu {
            // IPv6 routers do not fragment.
            let fragments = if self.packet.source.is_ipv4() { "fragments the packet, or " } else { "" };
            let reason = format!(
                "{} bytes exceed the MTU {mtu} of {device}: the host {fragments}answers that it is too big",
                self.packet.bytes
            );
            return Ok(TraceEnd::Lost { reason });
        }
        host.to = Some(exit.interface.name.clone());
        let first = match (input, forwarded) {
            (_, Some(_)) => Some(Netfilter::Forward),
            (Some(_), None) => Some(Netfilter::Output),
            // It has passed that already.
            (None, None) => None,
        };
        if let Some(end) = self.leave(&mut host, first).await? {
            return Ok(end);
        }
        match exit.interface.kind {
            LinkKind::Vxlan(_) => self.out_of_overlay(exit, input).await,
            LinkKind::Bridge => self.out_of_bridge(exit, input).await,
            LinkKind::Veth | LinkKind::Tun | LinkKind::Other => self.out_as_it_is(exit, input).await,
        }
    }

    /// Returns the packet before its first hook.
    async fn enter(&mut self, input: Option<&Link>) -> Result<InHost> {
        let destination = self.packet.destination;
        let forwarded = input.map(|input| (self.packet.source, input.index));
        let route = self.kernel.route(RouteQuery { destination, forwarded }).await?;
        let connection = self.connection()?;
        let off = is_bridged(input, &route).then(|| bridge_filter_off(destination.is_ipv6())).flatten();
        let tables = match off {
            Some(key) => {
                self.steps.push(TraceStep::note(format!(
                    "no rule sees it: the bridge passes it on by itself, and net.bridge.{key} is not 1"
                )));
                None
            }
            None => self.tables().await,
        };
        let arrived = self.packet.ends();
        let established = connection.is_some_and(|known| known.is_established(&arrived));
        let is_local = matches!(route, RouteAnswer::Local(_));
        let packet = self.as_rules_see_it(established, is_local, input.is_none());
        let mut host = InHost::new(tables, packet, arrived);
        host.connection = connection.filter(|_| off.is_none());
        host.from = input.map(|input| input.name.clone());
        if let (None, RouteAnswer::Out(hop) | RouteAnswer::Local(hop)) = (input, route) {
            host.to = Some(self.interface(hop.interface).await?.name);
        }
        Ok(host)
    }

    /// Takes a packet that arrives, or that the host itself sends, past the rules that see it first. Returns its end if it ends there.
    async fn arrive(&mut self, host: &mut InHost, arrives: bool) -> Result<Option<TraceEnd>> {
        let hook = if arrives { Netfilter::Prerouting } else { Netfilter::Output };
        if let Some(end) = self.pass(host, hook, Part::Before).await {
            return Ok(Some(end));
        }
        if let Some(end) = self.translate(host, hook, Side::Destination).await? {
            return Ok(Some(end));
        }
        Ok(self.pass(host, hook, Part::After).await)
    }

    /// Takes a packet for the host itself past the rules. Returns its end, or `None` if the kernel's load balancer sends it on.
    async fn receive(&mut self, host: &mut InHost) -> Result<Option<TraceEnd>> {
        if let Some(traveller) = &mut host.traveller {
            traveller.packet.local = true;
        }
        if let Some(end) = self.pass_all(host, Netfilter::Input).await {
            return Ok(Some(end));
        }
        let is_sent_on = match self.balance(host)? {
            Ok(is_sent_on) => is_sent_on,
            Err(end) => return Ok(Some(end)),
        };
        if !is_sent_on {
            self.conclude(host);
            return Ok(Some(TraceEnd::Local));
        }
        if let Some(traveller) = &mut host.traveller {
            traveller.packet.local = false;
        }
        Ok(None)
    }

    /// Takes a packet whose interface is known past the rules that see it last, from the hook `first` on. Returns its end if one of
    /// them stops it.
    async fn leave(&mut self, host: &mut InHost, first: Option<Netfilter>) -> Result<Option<TraceEnd>> {
        if let Some(traveller) = &mut host.traveller {
            traveller.packet.local = false;
        }
        if let Some(hook) = first
            && let Some(end) = self.pass_all(host, hook).await
        {
            return Ok(Some(end));
        }
        if let Some(end) = self.pass(host, Netfilter::Postrouting, Part::Before).await {
            return Ok(Some(end));
        }
        if let Some(end) = self.translate(host, Netfilter::Postrouting, Side::Source).await? {
            return Ok(Some(end));
        }
        let end = self.pass(host, Netfilter::Postrouting, Part::After).await;
        if end.is_none() {
            self.conclude(host);
        }
        Ok(end)
    }

    /// Looks up route and neighbour. Returns the packet's end if no interface carries it further.
    async fn exit(&mut self, query: RouteQuery) -> Result<std::result::Result<Exit, TraceEnd>> {
        let destination = query.destination;
        let (index, gateway) = match self.kernel.route(query).await? {
            RouteAnswer::Local(_) => return Ok(Err(TraceEnd::Local)),
            RouteAnswer::Refused(why) => return Ok(Err(self.refused(query, why).await?)),
            RouteAnswer::Out(Hop { interface, gateway, .. }) => (interface, gateway),
        };
        let interface = self.interface(index).await?;
        let (device, mtu) = (interface.name.clone(), interface.mtu);
        self.steps.push(TraceStep::Route { destination, device, mtu, gateway });
        let next_hop = gateway.unwrap_or(destination);
        let mac = if interface.mac.is_some() { self.neighbour(&interface, next_hop).await? } else { None };
        Ok(Ok(Exit { interface, next_hop, mac }))
    }

    /// Returns the end of a packet that the host does not route. Asks again as for a packet of the host itself, for which
    /// the kernel gives a more exact reason.
    async fn refused(&self, query: RouteQuery, why: &str) -> Result<TraceEnd> {
        let destination = query.destination;
        let reason = match self.kernel.route(RouteQuery { forwarded: None, ..query }).await? {
            RouteAnswer::Refused(why) => format!("the host cannot route to {destination}: {why}"),
            RouteAnswer::Local(_) | RouteAnswer::Out(_) => {
                format!("the host does not forward it to {destination}: {why}")
            }
        };
        Ok(TraceEnd::Lost { reason })
    }

    /// Follows the packet out of an interface that does not encapsulate. Runs `underlay_egress` where it is attached for
    /// flows without a tunnel.
    async fn out_as_it_is(&mut self, exit: Exit, input: Option<&Link>) -> Result<TraceEnd> {
        let Exit { interface, mac, .. } = exit;
        if let (Some(mac), Some(own)) = (mac, interface.mac)
            && self.is_uplink_with_direct_flows(&interface)
        {
            let frame = self.packet.frame(mac.0, own.0, routers(input));
            let received_on = input.map_or(0, |input| input.index);
            self.run(Hook::UnderlayEgress, &interface, received_on, &frame).await?;
        }
        Ok(TraceEnd::Leaves { device: interface.name, node: None, by: Carrier::Kernel })
    }

    /// Returns true if this is the uplink and flows to peers on its link can skip the host stack.
    fn is_uplink_with_direct_flows(&self, interface: &Link) -> bool {
        let is_direct = self.programs.as_ref().is_some_and(|programs| programs.node().direct_routing != 0);
        is_direct && self.ours().is_some_and(|ours| ours.uplink == interface.index)
    }

    /// Looks up the MAC of a neighbour.
    pub(super) async fn neighbour(&mut self, interface: &Link, address: IpAddr) -> Result<Option<Mac>> {
        let entry = self.kernel.neighbour(interface.index, address).await?;
        let (mac, state) = entry.map_or((None, "absent"), |entry| (entry.mac, entry.state));
        self.steps.push(TraceStep::Neighbour { address, device: interface.name.clone(), mac, state });
        Ok(mac)
    }

    /// Follows the packet out of the vxlan device. Its program or the device itself encapsulates it.
    async fn out_of_overlay(
        &mut self,
        Exit { interface, next_hop, mac }: Exit,
        input: Option<&Link>,
    ) -> Result<TraceEnd> {
        let Some(mac) = mac else {
            let reason = format!(
                "{} has no MAC for {next_hop}: the kernel asks the agent, which adds one if a lease holds the address",
                interface.name
            );
            return Ok(TraceEnd::Lost { reason });
        };
        if let Some(vtep) = interface.mac.filter(|_| self.is_overlay(&interface)) {
            let frame = self.packet.frame(mac.0, vtep.0, routers(input));
            let received_on = input.map_or(0, |input| input.index);
            match self.run(Hook::OverlayEgress, &interface, received_on, &frame).await? {
                Some(run) if run.outcome == Outcome::Encapsulated => return self.encapsulated(&run).await,
                _ => {}
            }
        }
        self.through_tunnel(&interface, mac).await
    }

    /// Follows a packet that the vxlan device encapsulates for the node that its FDB has for this MAC.
    pub(super) async fn through_tunnel(&mut self, device: &Link, mac: Mac) -> Result<TraceEnd> {
        let node = self.kernel.tunnel_end(device.index, mac).await?;
        self.steps.push(TraceStep::TunnelEnd { mac, device: device.name.clone(), node });
        match node {
            Some(node) => {
                let end = self.underlay(node, Carrier::Kernel).await?;
                let (TraceEnd::Leaves { device: uplink, .. }, LinkKind::Vxlan(options)) =
                    (&end, &device.kind)
                else {
                    return Ok(end);
                };
                let outer = OuterPacket { source: options.local, destination: node, port: options.port };
                Ok(self.pass_outer(outer, uplink, false).await?.unwrap_or(end))
            }
            None => {
                Ok(TraceEnd::Lost { reason: format!("{} does not know which node has {mac}", device.name) })
            }
        }
    }

    /// Returns true if this is the vxlan device that the programs serve.
    fn is_overlay(&self, interface: &Link) -> bool {
        self.ours().is_some_and(|ours| ours.device == interface.index)
    }

    /// Follows the packet out of the bridge port behind which the pod is.
    async fn out_of_bridge(
        &mut self,
        Exit { interface, next_hop, mac }: Exit,
        input: Option<&Link>,
    ) -> Result<TraceEnd> {
        let port = match mac {
            Some(mac) => self.port(&interface, mac).await?,
            None => None,
        };
        let (Some(port), Some(pod), Some(gateway)) = (port, mac, interface.mac) else {
            let reason = format!(
                "no pod with {next_hop} is known at {}: the host asks for it by ARP or ND",
                interface.name
            );
            return Ok(TraceEnd::Lost { reason });
        };
        if self.has_flow_cache() {
            let frame = self.packet.frame(pod.0, gateway.0, routers(input) + 1);
            let received_on = input.map_or(0, |input| input.index);
            self.run(Hook::PodIngress, &port, received_on, &frame).await?;
        }
        Ok(TraceEnd::Delivered { device: port.name, by: Carrier::Kernel })
    }

    /// Returns true if programs are attached to the pods' ports.
    pub(super) fn has_flow_cache(&self) -> bool {
        self.programs.as_ref().is_some_and(|programs| programs.node().flow_cache != 0)
    }

    /// Returns the bridge port on which the bridge has learnt this MAC.
    pub(super) async fn port(&self, bridge: &Link, mac: Mac) -> Result<Option<Link>> {
        match self.kernel.bridge_port(bridge.index, mac).await? {
            Some(index) => self.kernel.link(index).await,
            None => Ok(None),
        }
    }

    /// Follows an encapsulated packet over the underlay to `node`.
    pub(super) async fn underlay(&mut self, node: IpAddr, by: Carrier) -> Result<TraceEnd> {
        match self.exit(RouteQuery { destination: node, forwarded: None }).await? {
            Ok(exit) => Ok(TraceEnd::Leaves { device: exit.interface.name, node: Some(node), by }),
            Err(end) => Ok(end),
        }
    }

    /// Returns an interface, or an error if it does not exist.
    pub(super) async fn interface(&self, index: u32) -> Result<Link> {
        let found = self.kernel.link(index).await?;
        found
            .with_context(|| format!("there is no interface {index}: is this the agent's network namespace?"))
    }
}

/// Returns whether a bridge passes the packet on to another of its ports, and the host does not route it.
fn is_bridged(input: Option<&Link>, route: &RouteAnswer) -> bool {
    let RouteAnswer::Out(Hop { interface, gateway: None, .. }) = route else { return false };
    input.is_some_and(|input| input.kind == LinkKind::Bridge && input.index == *interface)
}

/// Returns the setting by which rules for routed packets also see those that a bridge passes on, if it is off.
fn bridge_filter_off(v6: bool) -> Option<&'static str> {
    let key = if v6 { "bridge-nf-call-ip6tables" } else { "bridge-nf-call-iptables" };
    let value = fs::read_to_string(format!("/proc/sys/net/bridge/{key}"));
    (!value.is_ok_and(|value| value.trim() == "1")).then_some(key)
}

/// Returns by how much the host decrements the TTL: by 1 if it forwards the packet.
fn routers(input: Option<&Link>) -> u8 {
    input.map_or(0, |_| 1)
}
