//! Takes the packet through the rules of the host's packet filters, hook by hook.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::time::timeout;

use super::journey::Journey;
use super::packet::Protocol;
use super::report::{TraceEnd, TraceStep};
use crate::netfilter::judge::packet::{Deed, Packet, Part, Passed, Traveller, Ways};
use crate::netfilter::reader;
use crate::netfilter::rules::{Hook, Table};
use crate::netlink::conntrack::{Directions, Tuple};

/// Time limit for iptables and nft to list all rules.
const LIMIT: Duration = Duration::from_secs(20);

/// A packet in the host stack.
pub(super) struct InHost {
    /// The packet as rules see it; `None` if they do not, or are not known.
    pub(super) traveller: Option<Traveller>,
    /// Its addresses and ports before its first hook.
    pub(super) arrived: Tuple,
    /// Its connection, if the connection tracker knows it.
    pub(super) connection: Option<Directions>,
    /// Name of the interface by which it came in.
    pub(super) from: Option<String>,
    /// Name of the interface by which it leaves.
    pub(super) to: Option<String>,
    /// Whether it is an outer packet.
    pub(super) outer: bool,
    hooks: Vec<&'static str>,
}

/// An outer packet of a vxlan device, in UDP.
pub(super) struct OuterPacket {
    /// Its source, if it is known.
    pub(super) source: Option<IpAddr>,
    pub(super) destination: IpAddr,
    pub(super) port: u16,
}

impl InHost {
    /// Returns a packet before its first hook. `packet`: as rules see it.
    pub(super) fn new(tables: Option<Arc<[Table]>>, packet: Packet, arrived: Tuple) -> Self {
        let traveller = tables.map(|tables| Traveller::new(tables, packet));
        Self { traveller, arrived, connection: None, from: None, to: None, outer: false, hooks: Vec::new() }
    }
}

impl Journey {
    /// Returns all rules of the host, which are read once. If they cannot be, a step says so.
    pub(super) async fn tables(&mut self) -> Option<Arc<[Table]>> {
        if let Some(tables) = &self.tables {
            return tables.clone();
        }
        let read = match timeout(LIMIT, reader::read_all()).await {
            Ok(Ok(Some(tables))) => Ok(tables),
            Ok(Ok(None)) => Err("iptables or nft is needed to list them".to_owned()),
            Ok(Err(error)) => Err(format!("{:#}", anyhow::Error::from(error))),
            Err(_) => Err(format!("they cannot be listed within {} s", LIMIT.as_secs())),
        };
        if let Err(why) = &read {
            self.certain = false;
            self.steps.push(TraceStep::note(format!("firewall rules are not known: {why}")));
        }
        let tables = read.ok().map(Arc::from);
        self.tables = Some(tables.clone());
        tables
    }

    /// Returns the traced packet as rules see it.
    pub(super) fn as_rules_see_it(&self, established: bool, local: bool, own: bool) -> Packet {
        let packet = &self.packet;
        let port = |port| (packet.protocol != Protocol::Icmp).then_some(port);
        Packet {
            source: Some(packet.source),
            destination: packet.destination,
            protocol: packet.protocol.number(packet.source),
            source_port: port(packet.source_port),
            port: port(packet.destination_port),
            established,
            local,
            own,
        }
    }

    /// Takes the packet through the filtering chains of a hook. Returns its end if a rule surely stops it.
    pub(super) async fn pass(&mut self, host: &mut InHost, hook: Hook, part: Part) -> Option<TraceEnd> {
        let ways = Ways { from: host.from.as_deref(), to: host.to.as_deref() };
        let Passed { met, stopped } = host.traveller.as_mut()?.pass(hook, part, ways);
        if !host.hooks.contains(&hook.name()) {
            host.hooks.push(hook.name());
        }
        let mut reason = None;
        for met in met {
            let rule = reader::wording(&met.rule).await;
            let is_stop = matches!(met.deed, Deed::Drops | Deed::Rejects);
            if is_stop && met.doubts.is_empty() && reason.is_none() {
                let packet = if host.outer { "the outer packet" } else { "it" };
                reason = Some(format!("a rule {} {packet}: {rule}", met.deed.name()));
            }
            // A packet that is only changed goes on.
            self.certain &= match met.deed {
                Deed::Drops | Deed::Rejects => met.doubts.is_empty(),
                Deed::Changes => true,
                Deed::Shows | Deed::Unknown => false,
            };
            self.steps.push(TraceStep::Rule {
                outer: host.outer,
                hook: hook.name(),
                does: met.deed.name(),
                rule,
                depends_on: met.doubts,
            });
        }
        let reason =
            reason.unwrap_or_else(|| "one of the rules above stops it, whatever they look at".to_owned());
        stopped.then_some(TraceEnd::Lost { reason })
    }

    /// Takes the packet through all filtering chains of a hook.
    pub(super) async fn pass_all(&mut self, host: &mut InHost, hook: Hook) -> Option<TraceEnd> {
        match self.pass(host, hook, Part::Before).await {
            None => self.pass(host, hook, Part::After).await,
            end => end,
        }
    }

    /// Adds the step that no other rule stops the packet.
    pub(super) fn conclude(&mut self, host: &InHost) {
        let established = host.connection.is_some_and(|known| known.is_established(&host.arrived));
        if !host.hooks.is_empty() {
            self.steps.push(TraceStep::Rules { outer: host.outer, hooks: host.hooks.clone(), established });
        }
    }

    /// Takes an outer packet that the kernel sends out of this interface, or receives there, past the rules. Returns the end if one
    /// surely stops it.
    pub(super) async fn pass_outer(
        &mut self,
        packet: OuterPacket,
        uplink: &str,
        received: bool,
    ) -> Result<Option<TraceEnd>> {
        let OuterPacket { source, destination, port } = packet;
        let packet = Packet {
            source,
            destination,
            protocol: 17,
            // It varies from flow to flow.
            source_port: None,
            port: Some(port),
            // Answers have other ports.
            established: false,
            local: received,
            own: !received,
        };
        let mut host = InHost::new(self.tables().await, packet, self.packet.ends());
        host.outer = true;
        let way = Some(uplink.to_owned());
        let hooks = if received {
            host.from = way;
            [Hook::Prerouting, Hook::Input]
        } else {
            host.to = way;
            [Hook::Output, Hook::Postrouting]
        };
        for hook in hooks {
            if let Some(end) = self.pass_all(&mut host, hook).await {
                return Ok(Some(end));
            }
        }
        self.conclude(&host);
        Ok(None)
    }
}
