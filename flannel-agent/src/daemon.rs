//! The node's daemon: reads the network's configuration, starts the backend on the uplink, takes a subnet, and follows
//! the leases until it is stopped. Stopping leaves device, routes, programs and lease in place.
//!
//! `node` is the machine's side, `membership` the datastore's. They run side by side: nothing on the machine waits
//! for the datastore. `drive` passes on what changes.

mod membership;
mod node;
mod renewal;
mod retry;
mod settings;

use std::time::Duration;

use anyhow::{Result, bail};
use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::backend::Backend;
use crate::backend::alloc::Alloc;
use crate::backend::host_gw::HostGw;
use crate::backend::udp::Udp;
use crate::backend::vxlan::Vxlan;
use crate::cli::Flags;
use crate::config::{self, DataplaneMode, NetworkConfig};
use crate::firewall::Firewall;
use crate::health::Health;
use crate::lease::etcd::EtcdManager;
use crate::lease::kube::KubeManager;
use crate::lease::local::LocalManager;
use crate::lease::{KnownNode, SubnetManager};
use crate::notify;
use crate::signals::Stop;
use crate::subnet_file;
use crate::uplink::Uplink;
use crate::uplink::watch::UplinkWatch;
use membership::{LeaseEvent, Membership};
use node::{Node, NodePlan};
use retry::until_it_works;
use settings::{backend_options, etcd_options, firewall_options, kube_options, uplink_options};

/// Pause between attempts at what fails.
const RETRY: Duration = Duration::from_secs(1);

/// Longest time to wait for what the datastore knows of this node.
const KNOWN_NODE: Duration = Duration::from_secs(5);

/// Runs the node until SIGTERM or SIGINT.
///
/// # Errors
/// What waiting does not repair: wrong flags, a configuration that this version does not support, no uplink, no
/// privilege.
pub async fn run(flags: Flags) -> Result<()> {
    let mut stop = Stop::on_signals()?;
    let health = Health::default();
    if flags.health.healthz_port != 0 {
        health.listen(&flags.health.healthz_ip, flags.health.healthz_port).await?;
    }
    let finished = tokio::select! {
        () = stop.wait() => Ok(()),
        end = run_with_datastore(&flags, &health) => end,
    };
    if finished.is_ok() {
        notify::stopping();
        info!("stopping; device, routes, programs and lease stay");
    }
    finished
}

async fn run_with_datastore(flags: &Flags, health: &Health) -> Result<()> {
    match &flags.leases.local_subnet_mgr {
        Some(dir) => run_with_backend(&LocalManager::new(dir.clone()), flags, health).await,
        None if flags.kube.kube_subnet_mgr => {
            run_with_backend(&KubeManager::new(kube_options(&flags.kube)?)?, flags, health).await
        }
        None => run_with_backend(&EtcdManager::new(etcd_options(&flags.etcd)), flags, health).await,
    }
}

async fn run_with_backend(store: &impl SubnetManager, flags: &Flags, health: &Health) -> Result<()> {
    let network = until_it_works("reading the network configuration", || store.network_config()).await;
    if flags.dataplane.dataplane == Some(DataplaneMode::Bpf)
        && !matches!(network.backend, config::Backend::Vxlan(_))
    {
        bail!(
            "--dataplane bpf was asked for, which the backend {} does not have",
            network.backend.kind().name()
        );
    }
    match &network.backend {
        config::Backend::Vxlan(vxlan) => drive::<Vxlan>(store, flags, health, &network, vxlan).await,
        config::Backend::HostGw => drive::<HostGw>(store, flags, health, &network, &()).await,
        config::Backend::Alloc => drive::<Alloc>(store, flags, health, &network, &()).await,
        config::Backend::Udp(_) if network.ipv6.is_some() => {
            bail!(
                "EnableIPv6 is true and the backend is udp, which carries IPv4 only; vxlan and host-gw carry both"
            )
        }
        config::Backend::Udp(udp) => drive::<Udp>(store, flags, health, &network, udp).await,
    }
}

/// Starts the node and makes it follow uplink, leases and kernel.
async fn drive<B: Backend>(
    store: &impl SubnetManager,
    flags: &Flags,
    health: &Health,
    network: &NetworkConfig,
    config: &B::Config,
) -> Result<()> {
    let options = backend_options(flags);
    let plan = NodePlan {
        network,
        config,
        options: &options,
        subnet_file: &flags.paths.subnet_file,
        ip_masq: flags.firewall.ip_masq,
    };
    let previous = subnet_file::read_previous(plan.subnet_file);
    let KnownNode { attrs: known, public_ips } = known_node(store).await;
    let uplinks = UplinkWatch::open(uplink_options(&flags.uplink, network, public_ips))?;
    let uplink = uplinks.choose().await?;
    let firewall = Firewall::new(firewall_options(&flags.firewall), network)?;
    let mut node = Node::<B>::start(plan, uplink, firewall, known.as_ref()).await?;
    let mut membership = Membership::new(store, network, flags.renew_margin(), node.attributes(), previous);
    let mut next_uplink = next_uplink(uplinks, node.uplink());
    loop {
        tokio::select! {
            event = membership.changed() => match event {
                LeaseEvent::Taken { subnet, previous } => {
                    node.take_subnet(subnet, previous).await?;
                    health.set_ready();
                    notify::ready();
                }
                LeaseEvent::Lost { subnet, why } => error!(
                    "the lease of {subnet} is lost: {why}; forwarding goes on while it is taken again"
                ),
                LeaseEvent::Peers(peers) => node.apply(peers).await,
                LeaseEvent::Answer(peers) => node.settle_questions(peers).await,
            },
            (uplinks, uplink) = &mut next_uplink => {
                node = node.move_to(uplink, &uplinks).await;
                membership.readdress(node.attributes());
                next_uplink = self::next_uplink(uplinks, node.uplink());
            }
            work = node.work() => node.perform(work).await,
        }
        if !membership.is_asking() && node.wants_peers() {
            membership.ask();
        }
    }
}

/// Asks the datastore what it knows of this node. Without an answer the node keeps what its devices have.
async fn known_node(store: &impl SubnetManager) -> KnownNode {
    let known = timeout(KNOWN_NODE, store.known_node()).await.map_err(anyhow::Error::from).flatten();
    known.unwrap_or_else(|error| {
        warn!("what the datastore knows of this node is not used: {error:#}");
        KnownNode::default()
    })
}

/// Waits until another uplink than the current one is to be used. Returns the watch with it.
fn next_uplink(mut uplinks: UplinkWatch, current: &Uplink) -> LocalBoxFuture<'static, (UplinkWatch, Uplink)> {
    let current = current.clone();
    async move {
        let next = uplinks.changed(&current).await;
        (uplinks, next)
    }
    .boxed_local()
}
