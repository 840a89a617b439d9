//! The state of a trace: the packet, the programs and tables to query, and the steps so far.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use flannel_common::lease::{DIRECT, ENDED, NODE, OWN};
use flannel_common::outcome::{Hook, Outcome};
use ipnet::IpNet;

use super::outer::OuterHeaders;
use super::packet::Packet;
use super::report::{Carrier, KnownFlow, LeaseHolder, TraceEnd, TraceStep};
use crate::dataplane::bpf::dry_run::known::{Ends, Held, OurEnd};
use crate::dataplane::bpf::dry_run::{DryRun, Run, Spot};
use crate::dataplane::kernel::Kernel;
use crate::netfilter::rules::Table;
use crate::netlink::link::Link;
use crate::netlink::route::{RouteAnswer, RouteQuery};

/// The trace of one packet.
pub(super) struct Journey {
    pub(super) packet: Packet,
    /// Public address of the node that sends the packet here (`--sender`).
    pub(super) sender: Option<IpAddr>,
    pub(super) kernel: Kernel,
    /// Copies of the programs, if any are pinned.
    pub(super) programs: Option<DryRun>,
    pub(super) steps: Vec<TraceStep>,
    /// What the programs know of the packet's flow.
    pub(super) flow: Option<KnownFlow>,
    /// The destination to follow, of several to which the packet may be translated (`--to`), until it is used.
    pub(super) to: Option<SocketAddr>,
    /// The rules of the host, once they were read; `None` in it if they cannot be.
    pub(super) tables: Option<Option<Arc<[Table]>>>,
    /// Whether the end is sure, whatever is not known of the rules on the way.
    pub(super) certain: bool,
}

impl Journey {
    /// Returns the subnets that the node itself holds.
    pub(super) fn own_leases(&self) -> Vec<IpNet> {
        let leases = self.programs.iter().flat_map(DryRun::leases);
        leases.filter(|(_, lease)| lease.flags & OWN != 0).map(|(subnet, _)| *subnet).collect()
    }

    /// Returns the node's end of the overlay for the packet's address family, if programs serve it.
    pub(super) fn ours(&self) -> Option<OurEnd> {
        self.programs.as_ref()?.ours(self.packet.source)
    }

    /// Returns true if the address is in one of the node's subnets or belongs to the host.
    pub(super) async fn is_here(&self, address: IpAddr, own: &[IpNet]) -> Result<bool> {
        let query = RouteQuery { destination: address, forwarded: None };
        Ok(own.iter().any(|subnet| subnet.contains(&address))
            || matches!(self.kernel.route(query).await?, RouteAnswer::Local(_)))
    }

    /// Explains that the packet does not pass this node, and names nodes that it passes.
    pub(super) fn explain_elsewhere(&self, own: &[IpNet]) -> String {
        let Packet { source, destination, .. } = self.packet;
        let own: Vec<_> = own.iter().map(ToString::to_string).collect();
        let missing = match self.sender {
            Some(_) => format!("{destination} is not"),
            None => format!("neither {source} nor {destination} is"),
        };
        let own = own.join(" and ");
        let mut text = format!("{missing} on this node, which has {own}: the packet does not pass here");
        for address in [source, destination] {
            if let Some(LeaseHolder { subnet, public_ip, .. }) = self.holder(address) {
                text += &format!("; {address} is in {subnet}: ask on the node {public_ip}");
            }
        }
        text
    }

    /// Returns the lease with the longest prefix that contains the address.
    pub(super) fn lease(&self, address: IpAddr) -> Option<(IpNet, Held)> {
        let leases = self.programs.as_ref()?.leases().iter();
        let holding = leases.filter(|(subnet, _)| subnet.contains(&address));
        holding.max_by_key(|(subnet, _)| subnet.prefix_len()).map(|(subnet, lease)| (*subnet, *lease))
    }

    pub(super) fn holder(&self, address: IpAddr) -> Option<LeaseHolder> {
        let (subnet, lease) = self.lease(address)?;
        let kind = match lease.flags {
            flags if flags & ENDED != 0 => "ended",
            flags if flags & OWN != 0 => "own",
            flags if flags & NODE != 0 => "node",
            flags if flags & DIRECT != 0 => "direct",
            _ => "subnet",
        };
        let Held { public_ip, vtep_mac, .. } = lease;
        Some(LeaseHolder { address, subnet, public_ip, vtep_mac, kind })
    }

    /// Adds the step for the lease of `remote`, and copies the packet's flow for the programs.
    pub(super) fn begin(&mut self, remote: IpAddr, egress: bool) -> Result<()> {
        let holder = self.holder(remote);
        let Some(programs) = &mut self.programs else { return Ok(()) };
        self.steps.push(match holder {
            Some(holder) => TraceStep::Lease(holder),
            None if programs.ours(remote).is_none() => {
                TraceStep::note(format!("the overlay has no IPv{}", if remote.is_ipv4() { 4 } else { 6 }))
            }
            None => TraceStep::note(format!("no lease holds {remote}")),
        });
        if programs.node().group_policy != 0 {
            self.steps.push(TraceStep::note("group policy: the trace is for a packet without a group"));
        }
        if let Some(key) = self.packet.flow(egress)
            && let Some(flow) = programs.copy_flow(&key)?
        {
            let flow = KnownFlow::of(&flow);
            // Programs behind the translation know the flow by its other name.
            let (pod, remote) = (flow.seen_as.unwrap_or(flow.pod), flow.behind.unwrap_or(flow.remote));
            for ends in [Ends { pod: flow.pod, remote: flow.remote, ..key }, Ends { pod, remote, ..key }] {
                if ends != key {
                    programs.copy_flow(&ends)?;
                }
            }
            self.steps.push(TraceStep::Flow(flow.clone()));
            self.flow = Some(flow);
        }
        Ok(())
    }

    /// Runs the program at a hook of an interface. `received_on` is the index of the interface that received the frame, 0
    /// if the host made it. Returns `None` if no program is attached.
    pub(super) async fn run(
        &mut self,
        hook: Hook,
        at: &Link,
        received_on: u32,
        frame: &[u8],
    ) -> Result<Option<Run>> {
        let Some(programs) = &mut self.programs else { return Ok(None) };
        let Link { index, name, .. } = at;
        let device = name.clone();
        if !programs.is_attached(hook, *index, &self.kernel).await? {
            self.steps.push(TraceStep::Absent { program: hook.program(), device });
            return Ok(None);
        }
        if !programs.is_same_program(hook)? {
            let text =
                format!("{device} has another version of {}, which may act differently", hook.program());
            self.steps.push(TraceStep::note(text));
        }
        let run = programs.run(Spot { hook, interface: *index, received_on }, frame)?;
        self.steps.push(TraceStep::ran(hook, name, run.outcome));
        Ok(Some(run))
    }

    /// Follows a packet that a program has encapsulated, out of the uplink.
    pub(super) async fn encapsulated(&mut self, run: &Run) -> Result<TraceEnd> {
        let (outer, _) = OuterHeaders::read(&run.frame).context("reading the program's outer headers")?;
        let node = IpAddr::V4(outer.destination);
        self.steps.push(TraceStep::Outer(outer));
        self.underlay(node, Carrier::Bpf).await
    }

    /// Returns the end of a packet that a program has delivered to the pod at this interface.
    pub(super) async fn delivered(&self, index: u32) -> Result<TraceEnd> {
        let device =
            self.kernel.link(index).await?.map_or_else(|| format!("interface {index}"), |port| port.name);
        Ok(TraceEnd::Delivered { device, by: Carrier::Bpf })
    }

    /// Returns the end of a packet that a program has dropped.
    pub(super) fn dropped(hook: Hook, outcome: Outcome) -> TraceEnd {
        TraceEnd::Lost { reason: format!("{} drops it as {}", hook.program(), outcome.name()) }
    }
}
