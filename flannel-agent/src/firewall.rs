//! What the host's firewall must do for pods: masquerade what leaves the overlay (`--ip-masq`), accept what is
//! forwarded to and from it, and drop what is sent to pods that there are none of (`--ip-blackhole-route`).
//!
//! `rules` says what should be there; `iptables` or, with `EnableNFTables`, `nftables` see to it.

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

use crate::cli::Flags;
use crate::config::NetworkConfig;
use crate::lease::SubnetKey;
use nftables::Nftables;
use rules::{Chain, Family, Wish};
use tool::ToolError;

/// The firewall of this node.
pub struct Firewall {
    wish: Wish,
    networks: Vec<IpNet>,
    blackhole: bool,
    sink: Sink,
    netlink: Handle,
    subnet: Option<SubnetKey>,
    resync: Interval,
    /// Whether what the other mode and other flags left is still to be removed.
    fresh: bool,
    /// What went wrong, as it was told last.
    told: String,
}

/// What the rules are written with.
enum Sink {
    Iptables,
    Nftables(Nftables),
}

impl Firewall {
    /// As flags and network configuration want it. Nothing is written before [`Self::serve`].
    ///
    /// # Errors
    /// No netlink socket can be opened.
    pub fn new(flags: &Flags, config: &NetworkConfig) -> Result<Self> {
        let mut resync = tokio::time::interval(Duration::from_secs(flags.iptables_resync.max(1)));
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            wish: Wish {
                masquerade: flags.ip_masq,
                fully_random: !flags.ip_masq_fully_random_disable,
                forward: flags.iptables_forward_rules,
            },
            networks: config.networks().collect(),
            blackhole: flags.ip_blackhole_route,
            sink: if config.nftables { Sink::Nftables(Nftables::default()) } else { Sink::Iptables },
            netlink: netlink()?,
            subnet: None,
            resync,
            fresh: true,
            told: String::new(),
        })
    }

    /// Writes the rules for a node with this subnet, in place of those for the `previous` one. What fails is logged
    /// and tried again by [`Self::resync`]: a node without its rules is better than no node, as with flanneld.
    pub async fn serve(&mut self, subnet: SubnetKey, previous: Option<SubnetKey>) {
        self.subnet = Some(subnet);
        let left: Vec<_> = previous.iter().flat_map(SubnetKey::nets).collect();
        for stale in left.into_iter().filter(|stale| !subnet.nets().any(|net| net == *stale)) {
            match blackhole::ensure(&self.netlink, stale, false).await {
                Ok(change) => log(change),
                Err(error) => error!("{error:#}"),
            }
        }
        self.resync().await;
        self.resync.reset();
    }

    /// Waits until it is time for [`Self::resync`].
    pub async fn due(&mut self) {
        self.resync.tick().await;
    }

    /// Compares what is there with what should be, and writes the difference.
    pub async fn resync(&mut self) {
        let Some(subnet) = self.subnet else { return };
        let results = [self.keep_rules(subnet).await, self.keep_blackholes(subnet).await];
        let problems: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
        self.fresh &= !problems.is_empty();
        self.tell(problems.iter().map(|problem| format!("{problem:#}")).collect::<Vec<_>>().join("; "));
    }

    async fn keep_rules(&mut self, subnet: SubnetKey) -> Result<()> {
        for net in subnet.nets() {
            let network = self.networks.iter().copied().find(|network| network.contains(&net));
            let network = network.with_context(|| format!("the subnet {net} is in none of the networks"))?;
            let mut chains = rules::chains(self.wish, network, net);
            // Whether something is left is looked at once, lest looking load what nobody needs (a legacy nat table).
            chains.retain(|chain| self.fresh || !chain.rules.is_empty());
            if !chains.is_empty() {
                let changes = self.sink.apply(Family::of(net), &chains).await;
                log(changes.context("writing the firewall's rules")?);
            }
        }
        if self.fresh {
            self.sink.clear_other().await;
        }
        Ok(())
    }

    async fn keep_blackholes(&self, subnet: SubnetKey) -> Result<()> {
        for net in subnet.nets().filter(|_| self.fresh || self.blackhole) {
            log(blackhole::ensure(&self.netlink, net, self.blackhole).await?);
        }
        Ok(())
    }

    /// Each problem once, and that it is over.
    fn tell(&mut self, problem: String) {
        if problem == self.told {
            return;
        }
        if problem.is_empty() {
            info!("the firewall's rules are complete again");
        } else {
            error!("{problem}; trying again every {} s", self.resync.period().as_secs());
        }
        self.told = problem;
    }
}

impl Sink {
    async fn apply(&mut self, family: Family, chains: &[Chain]) -> Result<Vec<String>, ToolError> {
        match self {
            Self::Iptables => iptables::apply(family, chains).await,
            Self::Nftables(nftables) => nftables.apply(family, chains).await,
        }
    }

    /// Removes what an agent in the other mode left. What cannot be looked at is taken for empty.
    async fn clear_other(&self) {
        for family in Family::ALL {
            let removed = match self {
                Self::Iptables => nftables::remove(family).await,
                Self::Nftables(_) => iptables::apply(family, &rules::none()).await,
            };
            match removed {
                Ok(changes) => log(changes),
                Err(error) => debug!("looking for rules of the other mode: {error}"),
            }
        }
    }
}

/// Removes all rules of either mode and family, and the blackhole routes of these subnets. Returns what was
/// removed and what could not be, for people. A tool that is not installed has written nothing.
pub async fn remove(subnets: &[IpNet]) -> Vec<Result<String>> {
    let mut results = Vec::new();
    for family in Family::ALL {
        for removed in [iptables::apply(family, &rules::none()).await, nftables::remove(family).await] {
            match removed {
                Ok(changes) => results.extend(changes.into_iter().map(Ok)),
                Err(error) if error.is_missing() => {}
                Err(error) => results.push(Err(error).context("removing the firewall's rules")),
            }
        }
    }
    results.extend(remove_blackholes(subnets).await.unwrap_or_else(|error| vec![Err(error)]));
    results
}

async fn remove_blackholes(subnets: &[IpNet]) -> Result<Vec<Result<String>>> {
    let netlink = netlink()?;
    let mut results = Vec::new();
    for subnet in subnets {
        results.extend(blackhole::ensure(&netlink, *subnet, false).await.transpose());
    }
    Ok(results)
}

fn log(changes: impl IntoIterator<Item = String>) {
    changes.into_iter().for_each(|change| info!("{change}"));
}

/// Strict, so that the kernel filters what it lists.
fn netlink() -> Result<Handle> {
    let (connection, handle, _) =
        rtnetlink::new_connection_with_strict_check().context("opening a netlink socket")?;
    tokio::spawn(connection);
    Ok(handle)
}
