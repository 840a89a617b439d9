//! The machine's side of the daemon: backend on the uplink, and subnet file. Nothing here waits for the
//! datastore.

use std::future::pending;
use std::time::Duration;

use anyhow::Result;
use tokio::task::yield_now;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tracing::{error, info};

use super::RETRY;
use super::membership::Peers;
use crate::backend::{Backend, Options, Setup};
use crate::config::NetworkConfig;
use crate::lease::{LeaseAttrs, SubnetKey};
use crate::memory;
use crate::metrics::{FailureKind, METRICS};
use crate::notify;
use crate::peer::Peer;
use crate::problem::{Pace, Problem};
use crate::report::feed::{FEED, changes};
use crate::report::{Carrying, REPORT};
use crate::subnet_file::{self, SubnetFile};
use crate::uplink::watch::UplinkWatch;
use crate::uplink::{InUse, Uplink};

/// Period of reading back and repairing the kernel's entries.
const RESYNC: Duration = Duration::from_secs(60);

/// So many nodes that come or go at once take memory for a moment that is worth returning.
const MANY: usize = 500;
/// So do so many interfaces that get their programs one after the other.
const MANY_INTERFACES: usize = 50;

/// What a node is made from, for as long as the agent runs.
pub(super) struct NodePlan<'a, C> {
    pub(super) network: &'a NetworkConfig,
    pub(super) config: &'a C,
    pub(super) options: &'a Options,
    pub(super) subnet_file: &'a SubnetFile,
    pub(super) ip_masq: bool,
}

/// A node whose backend runs on an uplink.
pub(super) struct Node<'a, B: Backend> {
    plan: NodePlan<'a, B::Config>,
    started: Started<B>,
    carried: Carried,
    /// Whether it was said that the node is ready.
    is_ready: bool,
    resync: Interval,
    /// What [`Backend::resync`] has to repeat.
    problem: Problem,
    /// Whether the last [`Backend::resync`], and what it has put off, has succeeded so far.
    is_complete: bool,
    /// How many steps of [`Work::Accelerate`] have followed each other.
    steps: usize,
}

/// A backend on its uplink.
struct Started<B> {
    uplink: Uplink,
    backend: B,
    attrs: LeaseAttrs,
}

/// What the node carries packets for. It stays when the uplink changes.
#[derive(Default)]
struct Carried {
    /// The node's own subnet, from the first lease on.
    subnet: Option<SubnetKey>,
    /// The other nodes, from the first snapshot on. Nothing is removed from the kernel before.
    peers: Option<Vec<Peer>>,
    /// How many nodes they are.
    nodes: Option<usize>,
}

/// What is to be done on the machine.
pub(super) enum Work {
    /// [`Backend::react`].
    React,
    /// [`Backend::resync`].
    Resync,
    /// [`Backend::accelerate_more`].
    Accelerate,
}

impl<'a, B: Backend> Node<'a, B> {
    /// Starts the backend on the uplink. There is no subnet yet. `known`: what other nodes know of this one.
    pub(super) async fn start(
        plan: NodePlan<'a, B::Config>,
        uplink: Uplink,
        known: Option<&LeaseAttrs>,
    ) -> Result<Self> {
        let carried = Carried::default();
        let started = start(&plan, &uplink, known, &carried).await?;
        let mut resync = interval_at(Instant::now() + RESYNC, RESYNC);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let problem = Problem::new(
            FailureKind::Dataplane,
            "the kernel's entries and the maps are complete again",
            Pace::SLOWING,
        );
        let node =
            Self { plan, started, carried, is_ready: false, resync, problem, is_complete: true, steps: 0 };
        node.describe();
        Ok(node)
    }

    /// The lease has been taken: carries packets for its subnet, and has the subnet file written. Returns what an operator must
    /// know if the node had another subnet before; it is logged already.
    pub(super) async fn take_subnet(
        &mut self,
        subnet: SubnetKey,
        previous: Option<SubnetKey>,
    ) -> Result<Option<String>> {
        let alarm = previous.filter(|old| *old != subnet).map(|old| {
            format!(
                "this node had the subnet {old} and has {subnet} now: pods created before are unreachable; create them again"
            )
        });
        alarm.iter().for_each(|alarm| error!("{alarm}"));
        let backend = &mut self.started.backend;
        backend.set_subnet(subnet).await?;
        publish(&self.plan, backend, subnet).await?;
        self.carried.subnet = Some(subnet);
        info!(%subnet, dataplane = self.started.backend.name(), "this node has its subnet");
        self.show_status();
        Ok(alarm)
    }

    /// The datastore has not answered yet: carries on with the subnet and the peers of the last run.
    pub(super) async fn go_on(&mut self, subnet: SubnetKey, peers: Peers) -> Result<()> {
        if self.carried.subnet.is_none() {
            self.take_subnet(subnet, None).await?;
        }
        self.apply(peers).await;
        Ok(())
    }

    /// The uplink has changed: starts the backend on the new one, for the same subnet and peers. Repeats this until it
    /// succeeds, on the uplink that is right by then.
    pub(super) async fn move_to(self, mut uplink: Uplink, uplinks: &mut UplinkWatch) -> Self {
        let Self { plan, started: Started { backend, attrs, .. }, carried, is_ready, mut resync, .. } = self;
        let (problem, is_complete) = (self.problem, self.is_complete);
        // Two backends cannot have the same port.
        drop(backend);
        let mut moving = Problem::new(FailureKind::Dataplane, "the node has moved", Pace::SLOWING);
        let started = loop {
            match start(&plan, &uplink, Some(&attrs), &carried).await {
                Ok(started) => break started,
                Err(error) => {
                    moving.failed([format!("moving to the uplink {}: {error:#}", uplink.name)]);
                    tokio::select! {
                        () = moving.wait() => {}
                        changed = uplinks.changed(&uplink) => {
                            uplink = changed;
                            continue;
                        }
                    }
                    uplink = uplinks.choose(&InUse::from(&uplink)).await.unwrap_or(uplink);
                }
            }
        };
        moving.solved();
        resync.reset_after(RETRY);
        let node = Self { plan, started, carried, is_ready, resync, problem, is_complete, steps: 0 };
        node.show_status();
        node
    }

    /// The leases have changed: makes these peers reachable, and no others.
    pub(super) async fn apply(&mut self, Peers { peers, nodes, .. }: Peers) {
        let errors = self.started.backend.apply(&peers).await;
        let v4 = peers.iter().filter(|peer| peer.subnet.addr().is_ipv4()).count();
        METRICS.set_peers(v4, peers.len() - v4);
        FEED.tell(|| changes(self.peers(), &peers));
        self.carried.peers = Some(peers);
        let before = self.carried.nodes.replace(nodes).unwrap_or_default();
        if nodes.abs_diff(before) >= MANY {
            memory::release();
        }
        self.report(errors);
        METRICS.leases.set(nodes.try_into().unwrap_or(i64::MAX));
        self.show_status();
    }

    /// The datastore has been asked for peers that packets wait for, and these are all that it has; `None` if it did not
    /// answer.
    pub(super) async fn settle_questions(&mut self, answer: Option<Peers>) {
        if let Some(peers) = answer {
            self.apply(peers).await;
        }
        let errors = self.started.backend.settle_questions().await;
        self.report(errors);
    }

    /// Returns whether packets wait for peers that the node does not know.
    pub(super) fn wants_peers(&mut self) -> bool {
        self.started.backend.wants_peers()
    }

    /// It was said that the node is ready. What only makes packets faster begins now.
    pub(super) const fn set_ready(&mut self) {
        self.is_ready = true;
    }

    /// Waits until something is to be done. It may be dropped and called again; no work gets lost.
    pub(super) async fn work(&mut self) -> Work {
        let knows_peers = self.carried.peers.is_some();
        let is_accelerating = self.is_ready && self.started.backend.is_accelerating();
        tokio::select! {
            () = self.started.backend.changed(), if knows_peers => Work::React,
            _ = self.resync.tick(), if knows_peers => Work::Resync,
            // All others have their turn between two steps.
            () = yield_now(), if is_accelerating => Work::Accelerate,
            else => pending().await,
        }
    }

    /// Does what [`Self::work`] has returned.
    pub(super) async fn perform(&mut self, work: Work) {
        let peers = self.carried.peers.as_deref().unwrap_or_default();
        let backend = &mut self.started.backend;
        let name = backend.name();
        let errors = match work {
            Work::React => backend.react(peers).await,
            Work::Resync => backend.resync(peers).await,
            Work::Accelerate => backend.accelerate_more().await,
        };
        let is_changed = backend.name() != name;
        match work {
            Work::Resync => self.is_complete = errors.is_empty(),
            Work::Accelerate => self.is_complete &= errors.is_empty(),
            Work::React => {}
        }
        // What a resync has put off may still fail.
        if self.is_complete && !matches!(work, Work::React) && !backend.is_accelerating() {
            self.problem.solved();
        }
        if matches!(work, Work::Accelerate) {
            self.steps += 1;
        }
        if !self.started.backend.is_accelerating() && std::mem::take(&mut self.steps) >= MANY_INTERFACES {
            memory::release();
        }
        self.report(errors);
        METRICS.dataplane_degraded.set(self.shortcoming().is_some().into());
        if is_changed {
            self.show_status();
        } else {
            self.describe();
        }
    }

    /// Returns why packets are not carried as fast as was asked for.
    pub(super) fn shortcoming(&self) -> Option<String> {
        self.started.backend.shortcoming()
    }

    /// Returns the other nodes that packets are carried to.
    pub(super) fn peers(&self) -> &[Peer] {
        self.carried.peers.as_deref().unwrap_or_default()
    }

    pub(super) const fn uplink(&self) -> &Uplink {
        &self.started.uplink
    }

    /// What other nodes need to know of this one.
    pub(super) fn attributes(&self) -> LeaseAttrs {
        self.started.attrs.clone()
    }

    /// Logs what failed, and has it tried again.
    fn report(&mut self, errors: Vec<anyhow::Error>) {
        if errors.is_empty() {
            return;
        }
        self.problem.failed(errors.into_iter().map(|error| format!("{error:#}")));
        self.problem.next_try().into_iter().for_each(|next| self.resync.reset_at(next));
    }

    /// Says in the report how packets are carried.
    fn describe(&self) {
        let Started { uplink, backend, .. } = &self.started;
        let subnets = self.carried.subnet.iter().flat_map(SubnetKey::nets);
        REPORT.set_carrying(Carrying {
            dataplane: backend.name().to_owned(),
            without_bpf: backend.without_bpf(),
            shortcoming: backend.shortcoming(),
            uplink: uplink.to_string(),
            subnets: subnets.map(|subnet| subnet.to_string()).collect(),
            slow_ports: backend.slow_ports(),
            slow_ports_in_all: 0,
        });
    }

    /// Shows subnet, dataplane and number of peers in `systemctl status` and `/metrics`.
    fn show_status(&self) {
        self.describe();
        let name = self.started.backend.name();
        METRICS.set_dataplane(name);
        METRICS.dataplane_degraded.set(self.shortcoming().is_some().into());
        let Some(subnet) = self.carried.subnet else { return };
        let subnets: Vec<_> = subnet.nets().map(|subnet| subnet.to_string()).collect();
        let peers = self.carried.nodes.map_or_else(String::new, |nodes| format!(", peers: {nodes}"));
        notify::status(&format!("{} on {name}{peers}", subnets.join(" and ")));
    }
}

/// Starts or adopts the backend on this uplink. It carries at once what was carried before.
async fn start<B: Backend>(
    plan: &NodePlan<'_, B::Config>,
    uplink: &Uplink,
    known: Option<&LeaseAttrs>,
    Carried { subnet, peers, .. }: &Carried,
) -> Result<Started<B>> {
    info!("the uplink is {uplink}");
    let NodePlan { network, config, options, .. } = *plan;
    let mut backend = B::start(Setup { options, network, config, uplink, known }).await?;
    if let Some(subnet) = *subnet {
        backend.set_subnet(subnet).await?;
        if let Some(peers) = peers {
            // The resync that follows a move repeats what fails.
            log(backend.apply(peers).await);
        }
        publish(plan, &mut backend, subnet).await?;
    }
    let attrs = backend.attributes()?;
    Ok(Started { uplink: uplink.clone(), backend, attrs })
}

/// Has the subnet file written, and then makes the backend fast.
async fn publish<B: Backend>(
    NodePlan { network, subnet_file, ip_masq, .. }: &NodePlan<'_, B::Config>,
    backend: &mut B,
    subnet: SubnetKey,
) -> Result<()> {
    subnet_file.set(subnet_file::render(network, *ip_masq, subnet, backend.mtu())).await;
    backend.accelerate().await
}

fn log(errors: Vec<anyhow::Error>) {
    for problem in errors {
        METRICS.count_failure(FailureKind::Dataplane);
        error!("{problem:#}");
    }
}
