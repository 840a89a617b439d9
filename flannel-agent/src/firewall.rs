//! Firewall rules for pod traffic. They masquerade packets that leave the overlay (`--ip-masq`) and accept packets
//! forwarded to and from it. `--ip-blackhole-route` drops packets to addresses of the node's subnet without a pod.
//!
//! `rules` computes the wanted rules; `iptables` or, with `EnableNFTables`, `nftables` writes them. This is a task of its
//! own: iptables can be slow or locked by another program, and nothing else waits for it.

mod blackhole;
mod iptables;
mod keeper;
mod nftables;
pub(crate) mod obstacles;
mod rules;
mod writer;

use std::collections::BTreeSet;
use std::future::pending;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{info, warn};

use crate::config::NetworkConfig;
use crate::lease::SubnetKey;
use crate::netlink;
use crate::task::Task;
use iptables::Variant;
use keeper::Keeper;
pub use rules::RuleOptions;
use rules::{IpVersion, Owner};

/// How long the node waits for its first rules before it is ready without them.
const PATIENCE: Duration = Duration::from_secs(3);

/// After failures, the pause between attempts doubles up to this many times `--iptables-resync`.
const LONGEST_PAUSE: u32 = 4;

/// Settings of this node's firewall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Which rules to write.
    pub rules: RuleOptions,
    /// Whether to add a blackhole route for the node's subnet (`--ip-blackhole-route`).
    pub blackhole_route: bool,
    /// Whether pods reach Services of Kubernetes, for which iptables must see bridged packets.
    pub has_services: bool,
    /// Interval between checks of the rules (`--iptables-resync`).
    pub resync: Duration,
}

/// The task that keeps this node's firewall rules and blackhole routes. Dropping it ends the task, and the command that
/// it runs; rules and routes stay.
pub struct Firewall {
    wanted: watch::Sender<Wanted>,
    /// Number of the newest [`Wanted`] that was written, or could not be written.
    tried: watch::Receiver<u64>,
    /// Until when [`Self::tried`] waits; `None` if it has returned for the present subnet.
    patience: Option<Instant>,
    _task: Task,
}

/// What the rules are for.
#[derive(Clone, Debug, Default)]
struct Wanted {
    /// Rises with every change.
    number: u64,
    subnet: Option<SubnetKey>,
    /// Subnets that the node had before.
    previous: BTreeSet<SubnetKey>,
}

impl Firewall {
    /// Starts the task. It writes the first rules after [`Self::set_subnet`], and removes those of the `former` networks,
    /// which the node had in the run before.
    ///
    /// # Errors
    /// No netlink socket can be opened.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(options: Options, config: &NetworkConfig, former: Vec<IpNet>) -> Result<Self> {
        let keeper = Keeper::new(options, config, former)?;
        let (wanted, seen) = watch::channel(Wanted::default());
        let (done, tried) = watch::channel(0);
        let task = Task::spawn(run(keeper, seen, done));
        Ok(Self { wanted, tried, patience: None, _task: task })
    }

    /// Has the rules for the node's `subnet` written, and the blackhole routes of its `previous` one removed. Returns at
    /// once.
    ///
    /// Errors are logged and repaired later: a node without its rules is better than no node.
    pub fn set_subnet(&mut self, subnet: SubnetKey, previous: Option<SubnetKey>) {
        self.patience = Some(Instant::now() + PATIENCE);
        self.wanted.send_modify(|wanted| {
            wanted.number += 1;
            wanted.previous.extend(previous.into_iter().chain(wanted.subnet));
            wanted.subnet = Some(subnet);
        });
    }

    /// Waits until the rules for the node's subnet are written, cannot be written, or take too long. Returns once for each
    /// [`Self::set_subnet`]; may be dropped and called again.
    pub async fn tried(&mut self) {
        let Some(patience) = self.patience else { return pending().await };
        let number = self.wanted.borrow().number;
        if timeout_at(patience, self.tried.wait_for(|tried| *tried >= number)).await.is_err() {
            warn!(
                "the firewall rules are not written after {} s; this node goes on without them",
                PATIENCE.as_secs()
            );
        }
        self.patience = None;
    }
}

/// Writes rules when the wanted ones change, and repairs them every `--iptables-resync` seconds.
async fn run(mut keeper: Keeper, mut wanted: watch::Receiver<Wanted>, tried: watch::Sender<u64>) {
    loop {
        let now = wanted.borrow_and_update().clone();
        keeper.keep(&now).await;
        tried.send_replace(now.number);
        keeper.look_for_obstacles(&now).await;
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = sleep_until(keeper.next()), if now.subnet.is_some() => {}
        }
    }
}

/// Removes the rules of both modes for IPv4 and IPv6, and the blackhole routes of these subnets. With `networks`, removes the
/// rules of these networks alone.
///
/// Returns a line of text for each removal and an error for each failure. Skips tools that are not installed: they
/// have written nothing.
pub async fn remove(networks: Option<&[IpNet]>, subnets: &[IpNet]) -> Vec<Result<String>> {
    let owner = networks.map_or(Owner::Everyone, Owner::Networks);
    let mut variants = vec![Variant::Unspecified];
    for variant in Variant::NAMED {
        if variant.has_flannel_chains().await {
            variants.push(variant);
        }
    }
    let mut removed = Vec::new();
    for version in IpVersion::ALL {
        for variant in &variants {
            removed.push(iptables::apply(*variant, version, &rules::none(), owner).await);
        }
        removed.push(nftables::remove(version, owner).await);
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
