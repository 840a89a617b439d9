//! Compares rules and blackhole routes with the wanted ones, and writes the difference.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use rtnetlink::Handle;
use tokio::time::Instant;
use tracing::{error, info};

use super::rules::{self, IpVersion, Owner};
use super::writer::Writer;
use super::{Options, Wanted, blackhole, log};
use crate::config::NetworkConfig;
use crate::lease::SubnetKey;
use crate::metrics::{FailureKind, METRICS};
use crate::netlink;

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
    failing: Option<Failing>,
}

/// What has failed since the rules were last complete.
struct Failing {
    since: Instant,
    logged: BTreeSet<String>,
}

impl Keeper {
    pub(super) fn new(options: Options, config: &NetworkConfig, former: Vec<IpNet>) -> Result<Self> {
        Ok(Self {
            options,
            networks: config.networks().collect(),
            former,
            writer: Writer::new(config.nftables),
            netlink: netlink::open()?,
            must_clear: true,
            failing: None,
        })
    }

    /// Writes the difference. Logs what fails, and returns whether nothing did.
    pub(super) async fn keep(&mut self, wanted: &Wanted) -> bool {
        let Some(subnet) = wanted.subnet else { return true };
        let results = [
            self.remove_stale(subnet, &wanted.previous).await,
            self.keep_blackholes(subnet).await,
            self.keep_rules(subnet).await,
        ];
        let problems = results.into_iter().filter_map(Result::err).map(|problem| format!("{problem:#}"));
        let problems: Vec<_> = problems.collect();
        self.must_clear &= !problems.is_empty();
        problems.iter().for_each(|_| METRICS.count_failure(FailureKind::Firewall));
        self.log_problems(&problems);
        problems.is_empty()
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

    async fn keep_rules(&mut self, subnet: SubnetKey) -> Result<()> {
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
                log(changes.context("writing the firewall rules")?);
            }
        }
        if self.must_clear {
            self.writer.clear_other_mode(owner).await;
        }
        Ok(())
    }

    /// Logs each problem once, and once that all are solved.
    fn log_problems(&mut self, problems: &[String]) {
        if problems.is_empty() {
            if let Some(Failing { since, .. }) = self.failing.take() {
                info!("the firewall rules are complete again, after {} s", since.elapsed().as_secs());
            }
            return;
        }
        let failing =
            self.failing.get_or_insert_with(|| Failing { since: Instant::now(), logged: BTreeSet::new() });
        for problem in problems {
            if failing.logged.insert(problem.clone()) {
                error!("{problem}; trying again until it works");
            }
        }
    }
}
