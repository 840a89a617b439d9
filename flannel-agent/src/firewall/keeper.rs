//! Compares rules and blackhole routes with the wanted ones, and writes the difference.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use rtnetlink::Handle;
use tokio::time::Instant;
use tracing::debug;

use super::obstacles::{Looks, Place};
use super::rules::{self, IpVersion, Owner};
use super::writer::Writer;
use super::{LONGEST_PAUSE, Options, Wanted, blackhole, log};
use crate::config::NetworkConfig;
use crate::lease::SubnetKey;
use crate::metrics::{FailureKind, METRICS, Repaired, SyncResult};
use crate::netfilter::{Stamp, Stamps};
use crate::netlink;
use crate::problem::{Pace, Problem};
use crate::report::REPORT;

/// The rules and routes of this node.
pub(super) struct Keeper {
    options: Options,
    networks: Vec<IpNet>,
    /// The networks of the run before.
    former: Vec<IpNet>,
    writer: Writer,
    netlink: Handle,
    /// True until one pass without errors has removed what the other mode or other flags left behind.
    must_clear: bool,
    problem: Problem,
    /// What is in the way of pods' packets.
    obstacles: Problem,
    looks: Looks,
    stamps: Stamps,
    /// The number of what was wanted and the host's rules, when all was right. While they are the same, it is, and no tool is run.
    right: Option<(u64, Stamp)>,
    /// The number of what was wanted when the rules were complete last. What differs from it later is damage.
    complete: Option<u64>,
}

impl Keeper {
    pub(super) fn new(options: Options, config: &NetworkConfig, former: Vec<IpNet>) -> Result<Self> {
        let pace = Pace { first: options.resync * 2, longest: options.resync * LONGEST_PAUSE };
        Ok(Self {
            options,
            networks: config.networks().collect(),
            former,
            writer: Writer::new(config.nftables),
            netlink: netlink::open()?,
            must_clear: true,
            problem: Problem::new(FailureKind::Firewall, "the firewall rules are complete again", pace),
            obstacles: Problem::new(
                FailureKind::NodeSetup,
                "nothing on this node is in pods' way any more",
                pace,
            ),
            looks: Looks::default(),
            stamps: Stamps::default(),
            right: None,
            complete: None,
        })
    }

    /// Writes the difference. Logs what fails.
    pub(super) async fn keep(&mut self, wanted: &Wanted) {
        let Some(subnet) = wanted.subnet else { return };
        let results = [
            self.remove_stale(subnet, &wanted.previous).await,
            self.keep_blackholes(subnet).await,
            self.keep_rules(wanted.number, subnet).await,
        ];
        let problems = results.into_iter().filter_map(Result::err).map(|problem| format!("{problem:#}"));
        let problems: Vec<_> = problems.collect();
        self.must_clear &= !problems.is_empty();
        if problems.is_empty() {
            self.problem.solved();
            REPORT.rules_are_complete(self.writer.name());
        } else {
            self.problem.failed(problems);
        }
    }

    /// Returns when to look again.
    pub(super) fn next(&self) -> Instant {
        self.problem.next_try().unwrap_or_else(|| Instant::now() + self.options.resync)
    }

    /// Says what stands in the way of pods' packets, once the agent's own rules are complete.
    pub(super) async fn look_for_obstacles(&mut self, wanted: &Wanted) {
        let Some(subnet) = wanted.subnet.filter(|_| self.problem.next_try().is_none()) else { return };
        let has_services = self.options.has_services;
        let places = self.parts(subnet).into_iter();
        let places: Vec<_> =
            places.map(|(network, subnet)| Place { network, subnet, has_services }).collect();
        let rules = self.right.as_ref().map(|(_, rules)| rules);
        match self.looks.find(&self.netlink, &self.writer, &places, rules).await {
            Ok(found) => self.obstacles.observed(found),
            // What is in the way remains unknown.
            Err(error) => debug!("looking for what stands in the way of pods' packets: {error:#}"),
        }
    }

    /// Returns the subnet of each address family, after its network.
    fn parts(&self, subnet: SubnetKey) -> Vec<(IpNet, IpNet)> {
        let network_of = |net: IpNet| self.networks.iter().copied().find(|network| network.contains(&net));
        subnet.nets().filter_map(|net| Some((network_of(net)?, net))).collect()
    }

    /// Removes the blackhole routes of earlier subnets.
    async fn remove_stale(&self, subnet: SubnetKey, previous: &BTreeSet<SubnetKey>) -> Result<()> {
        let stale = previous.iter().flat_map(SubnetKey::nets);
        for stale in stale.filter(|stale| !subnet.nets().any(|net| net == *stale)) {
            log(blackhole::ensure(&self.netlink, stale, false).await?);
        }
        Ok(())
    }

    async fn keep_blackholes(&self, subnet: SubnetKey) -> Result<()> {
        let wanted = self.options.blackhole_route;
        for net in subnet.nets().filter(|_| self.must_clear || wanted) {
            log(blackhole::ensure(&self.netlink, net, wanted).await?);
        }
        Ok(())
    }

    /// Writes what is missing, unless nothing has changed since nothing was.
    async fn keep_rules(&mut self, wanted: u64, subnet: SubnetKey) -> Result<()> {
        // Asked before the rules are read: those that are written now are read once more.
        let now = self.stamps.now().ok().map(|rules| (wanted, rules));
        if now.is_none() || now != self.right {
            self.right = None;
            let changes = self.write_rules(subnet).await?;
            if self.complete == Some(wanted) {
                REPORT.repaired(Repaired::Firewall, changes);
            }
            self.complete = Some(wanted);
            self.right = now;
        }
        Ok(())
    }

    /// Returns how many changes it took.
    async fn write_rules(&mut self, subnet: SubnetKey) -> Result<usize> {
        let mut count = 0;
        // Only once: another agent of the node may get what was this one's network.
        let former = self.former.iter().filter(|_| self.must_clear);
        let own: Vec<_> = self.networks.iter().chain(former).copied().collect();
        let owner = Owner::Networks(&own);
        for net in subnet.nets() {
            let network = self.networks.iter().copied().find(|network| network.contains(&net));
            let network = network.with_context(|| format!("the subnet {net} is in none of the networks"))?;
            let mut chains = rules::chains(self.options.rules, network, net);
            // Unwanted chains are looked for once only: listing a table can load its kernel module (legacy nat).
            chains.retain(|chain| self.must_clear || !chain.rules.is_empty());
            if !chains.is_empty() {
                let changes = self.writer.apply(IpVersion::of(net), &chains, network, owner).await;
                METRICS.count_firewall_sync(
                    if net.addr().is_ipv4() { "ipv4" } else { "ipv6" },
                    match &changes {
                        Ok(changes) if changes.is_empty() => SyncResult::Unchanged,
                        Ok(_) => SyncResult::Changed,
                        Err(_) => SyncResult::Failed,
                    },
                );
                let changes = changes.context("writing the firewall rules")?;
                count += changes.len();
                log(changes);
            }
        }
        if self.must_clear {
            self.writer.clear_other_mode(owner).await;
        }
        Ok(count)
    }
}
