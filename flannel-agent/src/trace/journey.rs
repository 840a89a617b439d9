//! A packet on its way: who is asked, and what was answered so far.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use flannel_common::lease::{DIRECT, ENDED, NODE, OWN};
use flannel_common::outcome::{Hook, Outcome};
use ipnet::IpNet;

use super::outer::Outer;
use super::packet::Packet;
use super::report::{Carrier, End, Holder, Step};
use crate::dataplane::bpf::attach;
use crate::dataplane::bpf::dry_run::known::{Held, OurEnd};
use crate::dataplane::bpf::dry_run::{DryRun, Run, Spot};
use crate::dataplane::kernel::Kernel;
use crate::dataplane::kernel::interface::Interface;
use crate::dataplane::kernel::lookup::{Question, Way};

/// The way of one packet.
pub(super) struct Journey {
    pub(super) packet: Packet,
    /// The node that sends it here, if that was said.
    pub(super) sender: Option<IpAddr>,
    pub(super) kernel: Kernel,
    /// The programs, where they have a say.
    pub(super) programs: Option<DryRun>,
    pub(super) steps: Vec<Step>,
}

impl Journey {
    /// What the node itself holds.
    pub(super) fn own_leases(&self) -> Vec<IpNet> {
        let leases = self.programs.iter().flat_map(DryRun::leases);
        leases.filter(|(_, lease)| lease.flags & OWN != 0).map(|(subnet, _)| *subnet).collect()
    }

    /// The node's end of the overlay that carries the packet's family, where programs serve it.
    pub(super) fn ours(&self) -> Option<OurEnd> {
        self.programs.as_ref()?.ours(self.packet.source)
    }

    /// Whether an address is in the node's own subnets or one of the host's.
    pub(super) async fn is_here(&self, address: IpAddr, own: &[IpNet]) -> Result<bool> {
        let question = Question { destination: address, forwarded: None };
        Ok(own.iter().any(|subnet| subnet.contains(&address))
            || self.kernel.way(question).await? == Way::Local)
    }

    /// Why there is nothing to tell.
    pub(super) fn elsewhere(&self, own: &[IpNet]) -> String {
        let Packet { source, destination, .. } = self.packet;
        let own: Vec<_> = own.iter().map(ToString::to_string).collect();
        let missing = match self.sender {
            Some(_) => format!("{destination} is not"),
            None => format!("neither {source} nor {destination} is"),
        };
        let own = own.join(" and ");
        let mut text = format!("{missing} on this node, which has {own}: the packet does not pass here");
        for address in [source, destination] {
            if let Some(Holder { subnet, public_ip, .. }) = self.holder(address) {
                text += &format!("; {address} is in {subnet}: ask on the node {public_ip}");
            }
        }
        text
    }

    /// The lease that an address is in: that of the longest prefix.
    pub(super) fn lease(&self, address: IpAddr) -> Option<(IpNet, Held)> {
        let leases = self.programs.as_ref()?.leases().iter();
        let holding = leases.filter(|(subnet, _)| subnet.contains(&address));
        holding.max_by_key(|(subnet, _)| subnet.prefix_len()).map(|(subnet, lease)| (*subnet, *lease))
    }

    fn holder(&self, address: IpAddr) -> Option<Holder> {
        let (subnet, lease) = self.lease(address)?;
        let kind = match lease.flags {
            flags if flags & ENDED != 0 => "ended",
            flags if flags & OWN != 0 => "own",
            flags if flags & NODE != 0 => "node",
            flags if flags & DIRECT != 0 => "direct",
            _ => "subnet",
        };
        let Held { public_ip, vtep_mac, .. } = lease;
        Some(Holder { address, subnet, public_ip, vtep_mac, kind })
    }

    /// Notes the lease at the other end, and what the node knows of the packet's flow.
    pub(super) fn begin(&mut self, remote: IpAddr, egress: bool) -> Result<()> {
        let holder = self.holder(remote);
        let Some(programs) = &mut self.programs else { return Ok(()) };
        self.steps.push(match holder {
            Some(holder) => Step::Lease(holder),
            None if programs.ours(remote).is_none() => {
                Step::note(format!("the overlay has no IPv{}", if remote.is_ipv4() { 4 } else { 6 }))
            }
            None => Step::note(format!("no lease holds {remote}")),
        });
        if programs.node().group_policy != 0 {
            self.steps.push(Step::note("group policy: the answer is for a packet without a group"));
        }
        if let Some(key) = self.packet.flow(egress) {
            programs.copy_flow(&key)?;
        }
        Ok(())
    }

    /// Runs the program at a hook of an interface on a frame that was last received on the one with the index
    /// `received_on`, 0 for none; `None` if there is no program.
    pub(super) async fn run(
        &mut self,
        hook: Hook,
        at: &Interface,
        received_on: u32,
        frame: &[u8],
    ) -> Result<Option<Run>> {
        let Some(programs) = &mut self.programs else { return Ok(None) };
        let Interface { index, name, .. } = at;
        let device = name.clone();
        if !attach::is_some_attached(hook, name, *index, &self.kernel).await? {
            self.steps.push(Step::Absent { program: hook.program(), device });
            return Ok(None);
        }
        if !programs.is_the_nodes(hook)? {
            let text = format!("{device} has {} of another version, which may differ", hook.program());
            self.steps.push(Step::note(text));
        }
        let run = programs.run(Spot { hook, interface: *index, received_on }, frame)?;
        self.steps.push(Step::ran(hook, name, run.outcome));
        Ok(Some(run))
    }

    /// The end of a packet that a program has wrapped: out of the uplink.
    pub(super) async fn wrapped(&mut self, run: &Run) -> Result<End> {
        let (outer, _) = Outer::read(&run.frame).context("reading what the program has made")?;
        let node = IpAddr::V4(outer.destination);
        self.steps.push(Step::Outer(outer));
        self.underlay(node, Carrier::Bpf).await
    }

    /// The end of a packet that a program has handed to a pod.
    pub(super) async fn delivered(&self, index: u32) -> Result<End> {
        let device = self
            .kernel
            .interface(index)
            .await?
            .map_or_else(|| format!("interface {index}"), |port| port.name);
        Ok(End::Delivered { device, by: Carrier::Bpf })
    }

    /// The end of a packet that a program has dropped.
    pub(super) fn dropped(hook: Hook, outcome: Outcome) -> End {
        End::Lost { reason: format!("{} drops it as {}", hook.program(), outcome.name()) }
    }
}
