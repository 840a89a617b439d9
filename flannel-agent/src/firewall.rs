//! Firewall rules for pod traffic. They masquerade packets that leave the overlay (`--ip-masq`) and accept packets
//! forwarded to and from it. `--ip-blackhole-route` drops packets to addresses of the node's subnet without a pod.
//!
//! `rules` computes the wanted rules; `iptables` or, with `EnableNFTables`, `nftables` writes them.

mod blackhole;
mod iptables;
mod nftables;
mod rules;
mod tool;

use std::time::Duration;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use rtnetlink::Handle;
use tokio::time::{Interval, MissedTickBehavior};
use tracing::{debug, error, info};

use crate::config::NetworkConfig;
use crate::lease::SubnetKey;
use crate::metrics::{FailureKind, METRICS};
use crate::netlink;
use iptables::Variant;
use nftables::Nftables;
pub use rules::RuleOptions;
use rules::{Chain, IpVersion};
use tool::ToolError;

/// Settings of this node's firewall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Which rules to write.
    pub rules: RuleOptions,
    /// Whether to add a blackhole route for the node's subnet (`--ip-blackhole-route`).
    pub blackhole_route: bool,
    /// Interval between checks of the rules (`--iptables-resync`).
    pub resync: Duration,
}

/// The firewall rules and blackhole routes of this node.
pub struct Firewall {
    options: Options,
    networks: Vec<IpNet>,
    writer: RuleWriter,
    netlink: Handle,
    subnet: Option<SubnetKey>,
    resync: Interval,
    /// True until one pass without errors has removed what the other mode or other flags left behind.
    must_clear: bool,
    /// The last problem logged; empty if there is none.
    logged_problem: String,
}

/// The tool that writes the rules.
enum RuleWriter {
    /// With the variant that the host uses, once that is known.
    Iptables(Option<Variant>),
    Nftables(Nftables),
}

impl Firewall {
    /// Prepares the firewall; [`Self::set_subnet`] writes the first rules.
    ///
    /// # Errors
    /// No netlink socket can be opened.
    pub fn new(options: Options, config: &NetworkConfig) -> Result<Self> {
        let mut resync = tokio::time::interval(options.resync);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            options,
            networks: config.networks().collect(),
            writer: if config.nftables {
                RuleWriter::Nftables(Nftables::default())
            } else {
                RuleWriter::Iptables(None)
            },
            netlink: netlink::open()?,
            subnet: None,
            resync,
            must_clear: true,
            logged_problem: String::new(),
        })
    }

    /// Writes the rules for the node's `subnet` and removes the blackhole routes of its `previous` one.
    ///
    /// Errors are logged and [`Self::resync`] tries again: a node without its rules is better than no node, as with
    /// flanneld.
    pub async fn set_subnet(&mut self, subnet: SubnetKey, previous: Option<SubnetKey>) {
        self.subnet = Some(subnet);
        let old: Vec<_> = previous.iter().flat_map(SubnetKey::nets).collect();
        for stale in old.into_iter().filter(|stale| !subnet.nets().any(|net| net == *stale)) {
            match blackhole::ensure(&self.netlink, stale, false).await {
                Ok(change) => log(change),
                Err(error) => error!("{error:#}"),
            }
        }
        self.resync().await;
        self.resync.reset();
    }

    /// Waits until the next [`Self::resync`] is due.
    pub async fn due(&mut self) {
        self.resync.tick().await;
    }

    /// Compares rules and routes with the wanted ones and writes the difference.
    pub async fn resync(&mut self) {
        let Some(subnet) = self.subnet else { return };
        let results = [self.keep_rules(subnet).await, self.keep_blackholes(subnet).await];
        let problems: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
        self.must_clear &= !problems.is_empty();
        problems.iter().for_each(|_| METRICS.count_failure(FailureKind::Firewall));
        self.log_problem(
            problems.iter().map(|problem| format!("{problem:#}")).collect::<Vec<_>>().join("; "),
        );
    }

    async fn keep_rules(&mut self, subnet: SubnetKey) -> Result<()> {
        for net in subnet.nets() {
            let network = self.networks.iter().copied().find(|network| network.contains(&net));
            let network = network.with_context(|| format!("the subnet {net} is in none of the networks"))?;
            let mut chains = rules::chains(self.options.rules, network, net);
            // Unwanted chains are looked for once only: listing a table can load its kernel module (legacy nat).
            chains.retain(|chain| self.must_clear || !chain.rules.is_empty());
            if !chains.is_empty() {
                let changes = self.writer.apply(IpVersion::of(net), &chains).await;
                log(changes.context("writing the firewall rules")?);
            }
        }
        if self.must_clear {
            self.writer.clear_other_mode().await;
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

    /// Logs each problem once, and once that it is solved.
    fn log_problem(&mut self, problem: String) {
        if problem == self.logged_problem {
            return;
        }
        if problem.is_empty() {
            info!("the firewall rules are complete again");
        } else {
            error!("{problem}; trying again every {} s", self.resync.period().as_secs());
        }
        self.logged_problem = problem;
    }
}

impl RuleWriter {
    async fn apply(&mut self, version: IpVersion, chains: &[Chain]) -> Result<Vec<String>, ToolError> {
        match self {
            Self::Iptables(variant) => {
                let variant = match variant {
                    Some(variant) => *variant,
                    None => *variant.insert(Variant::detect().await),
                };
                iptables::apply(variant, version, chains).await
            }
            Self::Nftables(nftables) => nftables.apply(version, chains).await,
        }
    }

    /// Removes the rules that an agent left in the other mode, or with the other variant of iptables. Counts rules that
    /// cannot be listed as absent.
    async fn clear_other_mode(&self) {
        let mut removed = Vec::new();
        for version in IpVersion::ALL {
            match self {
                Self::Iptables(variant) => {
                    removed.push(nftables::remove(version).await);
                    if let Some(other) = variant.and_then(Variant::other)
                        && other.has_flannel_chains().await
                    {
                        removed.push(iptables::apply(other, version, &rules::none()).await);
                    }
                }
                Self::Nftables(_) => {
                    removed.push(iptables::apply(Variant::Unspecified, version, &rules::none()).await);
                }
            }
        }
        for removed in removed {
            match removed {
                Ok(changes) => log(changes),
                Err(error) => debug!("looking for rules of the other mode: {error}"),
            }
        }
    }
}

/// Removes the rules of both modes for IPv4 and IPv6, and the blackhole routes of these subnets.
///
/// Returns a line of text for each removal and an error for each failure. Skips tools that are not installed: they
/// have written nothing.
pub async fn remove(subnets: &[IpNet]) -> Vec<Result<String>> {
    let mut variants = vec![Variant::Unspecified];
    for variant in Variant::NAMED {
        if variant.has_flannel_chains().await {
            variants.push(variant);
        }
    }
    let mut removed = Vec::new();
    for version in IpVersion::ALL {
        for variant in &variants {
            removed.push(iptables::apply(*variant, version, &rules::none()).await);
        }
        removed.push(nftables::remove(version).await);
    }
    let mut results = Vec::new();
    for removed in removed {
        match removed {
            Ok(changes) => results.extend(changes.into_iter().map(Ok)),
            Err(error) if error.is_missing() => {}
            Err(error) => results.push(Err(error).context("removing the firewall rules")),
        }
    }
    results.extend(remove_blackholes(subnets).await.unwrap_or_else(|error| vec![Err(error)]));
    results
}

async fn remove_blackholes(subnets: &[IpNet]) -> Result<Vec<Result<String>>> {
    let netlink = netlink::open()?;
    let mut results = Vec::new();
    for subnet in subnets {
        results.extend(blackhole::ensure(&netlink, *subnet, false).await.transpose());
    }
    Ok(results)
}

fn log(changes: impl IntoIterator<Item = String>) {
    changes.into_iter().for_each(|change| info!("{change}"));
}
