//! The node's daemon: reads the network's configuration, starts the backend on the uplink, takes a subnet, and follows
//! the leases until it is stopped. Stopping leaves device, routes, programs and lease in place.
//!
//! `node` is the machine's side, `membership` the datastore's. They run side by side: nothing on the machine waits
//! for the datastore. `drive` passes on what changes.

mod membership;
mod network;
mod node;
mod notices;
mod reachability;
mod renewal;
mod retry;
mod settings;

use std::time::Duration;

use anyhow::{Result, bail};
use futures::FutureExt as _;
use futures::future::LocalBoxFuture;
use tracing::{debug, error, info, warn};

use crate::backend::alloc::Alloc;
#[cfg(feature = "cloud")]
use crate::backend::cloud::Cloud;
use crate::backend::host_gw::HostGw;
use crate::backend::udp::Udp;
use crate::backend::vxlan::Vxlan;
use crate::backend::{self, Backend};
use crate::cli::Flags;
use crate::config::{self, Change, DataplaneMode, NetworkConfig};
use crate::dataplane::bpf::former;
use crate::firewall::Firewall;
use crate::health::Health;
use crate::lease::etcd::EtcdManager;
use crate::lease::kube::KubeManager;
use crate::lease::local::LocalManager;
use crate::lease::{LastKnown, PublicIps, SubnetKey, SubnetManager};
use crate::notify;
use crate::report::REPORT;
use crate::report::server::{ReportServer, Service};
use crate::signals::Stop;
use crate::sole::Sole;
use crate::subnet_file::{self, SubnetFile};
use crate::uplink::watch::UplinkWatch;
use crate::uplink::{InUse, Uplink};
use membership::{LeaseEvent, Membership, Recorder, Terms};
use network::{Answer, PATIENCE, ask};
use node::{Node, NodePlan};
use notices::Notices;
use reachability::Reachability;
use settings::{backend_options, datastore, etcd_options, firewall_options, kube_options, uplink_options};

/// Pause between attempts at what fails.
const RETRY: Duration = Duration::from_secs(1);

/// Runs the node until SIGTERM or SIGINT.
///
/// # Errors
/// What waiting does not repair: wrong flags, a configuration that this version does not support, no uplink, no
/// privilege.
pub async fn run(flags: Flags) -> Result<()> {
    let mut stop = Stop::on_signals()?;
    let health = Health::default();
    let finished = tokio::select! {
        () = stop.wait() => Ok(()),
        end = run_with_health(&flags, &health) => end,
    };
    if finished.is_ok() {
        notify::stopping();
        info!("stopping; device, routes, programs and lease stay");
    }
    finished
}

async fn run_with_health(flags: &Flags, health: &Health) -> Result<()> {
    if flags.health.healthz_port != 0 {
        health.listen(&flags.health.healthz_ip, flags.health.healthz_port).await?;
    }
    run_with_datastore(flags, health).await
}

async fn run_with_datastore(flags: &Flags, health: &Health) -> Result<()> {
    match &flags.leases.local_subnet_mgr {
        Some(dir) => run_with_config(&LocalManager::new(dir.clone()), flags, health).await,
        None if flags.kube.kube_subnet_mgr => {
            run_with_config(&KubeManager::new(kube_options(&flags.kube)?)?, flags, health).await
        }
        None => {
            if flags.etcd.password_is_shown {
                warn!(
                    "every user of this node can read --etcd-password in the list of processes; give it by \
                     --etcd-password-file, or by FLANNELD_ETCD_PASSWORD"
                );
            }
            run_with_config(&EtcdManager::new(etcd_options(&flags.etcd)), flags, health).await
        }
    }
}

/// Runs with the network's configuration, and starts again in this process when that has changed: like a restart of the
/// agent it adopts what is there.
async fn run_with_config(store: &impl SubnetManager, flags: &Flags, health: &Health) -> Result<()> {
    REPORT.start(datastore(flags));
    // Before the first request to the datastore, which may not answer.
    let _report = ReportServer::start(flags.paths.report(), Service::Report);
    let _feed = ReportServer::start(flags.paths.feed(), Service::Feed);
    let mut last_known = last_known(flags);
    let known_network = last_known.as_ref().map(|known| known.network.clone());
    let mut network = network::read(store, known_network).await;
    // Changes at run time leave its name as it is.
    let name = network.value.name_on_node();
    REPORT.set_network(name.clone());
    let _sole = match name {
        Some(name) => Some(Sole::take(&name).await?),
        None => None,
    };
    let subnet_file = SubnetFile::start(flags.paths.subnet_file.clone());
    loop {
        let next = run_with_backend(store, flags, health, &subnet_file, &network, last_known).await?;
        network = Answer { value: next, is_fresh: true };
        last_known = self::last_known(flags);
    }
}

/// Returns what an earlier run knew of this network.
fn last_known(flags: &Flags) -> Option<LastKnown> {
    let path = flags.paths.last_known();
    LastKnown::read(&path, &datastore(flags)).unwrap_or_else(|error| {
        warn!("not using what the last run knew: reading {}: {error:#}", path.display());
        None
    })
}

/// Runs until another network configuration is to be used, and returns that.
async fn run_with_backend(
    store: &impl SubnetManager,
    flags: &Flags,
    health: &Health,
    subnet_file: &SubnetFile,
    network: &Answer<NetworkConfig>,
    last_known: Option<LastKnown>,
) -> Result<NetworkConfig> {
    let config = &network.value;
    if flags.dataplane.dataplane == Some(DataplaneMode::Bpf) && !config.backend.kind().has_programs() {
        bail!(
            "--dataplane bpf was asked for, which the backend {} does not have",
            config.backend.kind().name()
        );
    }
    // Its leases are checked against the configuration like all others. The own subnet is not.
    let last_known =
        last_known.filter(|known| known.network.changes(config).iter().all(Change::is_for_run_time));
    let run = Run { store, flags, health, subnet_file, network, last_known };
    match &config.backend {
        config::Backend::Vxlan(vxlan) => drive::<Vxlan, _>(run, vxlan).await,
        config::Backend::HostGw => drive::<HostGw, _>(run, &()).await,
        config::Backend::Alloc => drive::<Alloc, _>(run, &()).await,
        config::Backend::Udp(_) if config.ipv6.is_some() => {
            bail!(
                "EnableIPv6 is true and the backend is udp, which carries IPv4 only; vxlan and host-gw carry both"
            )
        }
        config::Backend::Udp(udp) => drive::<Udp, _>(run, udp).await,
        #[cfg(feature = "cloud")]
        config::Backend::AwsVpc(_) | config::Backend::Gce | config::Backend::AliVpc(_) => {
            drive::<Cloud, _>(run, &config.backend).await
        }
        #[cfg(not(feature = "cloud"))]
        config::Backend::AwsVpc(_) | config::Backend::Gce | config::Backend::AliVpc(_) => {
            bail!("this agent was built without the backend {}", config.backend.kind().name())
        }
    }
}

/// What a run with one network configuration begins with.
struct Run<'a, S> {
    store: &'a S,
    flags: &'a Flags,
    health: &'a Health,
    subnet_file: &'a SubnetFile,
    network: &'a Answer<NetworkConfig>,
    /// What an earlier run knew of the same network.
    last_known: Option<LastKnown>,
}

/// Detaches what an earlier run has attached for another backend or VNI of this network. `previous`: the node's subnet in that run.
async fn detach_former(flags: &Flags, network: &NetworkConfig, previous: Option<SubnetKey>) -> Result<()> {
    let own: Vec<_> = previous.iter().flat_map(SubnetKey::nets).collect();
    former::detach(&flags.paths.bpffs, backend::programs(network), &own).await
}

/// Starts the node and makes it follow uplink, leases and kernel, until another network configuration is to be used.
async fn drive<B: Backend, S: SubnetManager>(run: Run<'_, S>, config: &B::Config) -> Result<NetworkConfig> {
    let Run { store, flags, health, subnet_file, network: in_use, last_known } = run;
    let network = &in_use.value;
    let options = backend_options(flags);
    let plan = NodePlan { network, config, options: &options, subnet_file, ip_masq: flags.firewall.ip_masq };
    let previous = subnet_file::read_previous(subnet_file.path());
    let before = last_known.as_ref().map(|known| known.node.clone());
    let asked = ask("reading what is known of this node", || store.known_node(), before.clone());
    let Answer { value: known_node, is_fresh } = asked.await;
    let given = known_node.public_ips;
    // A device that is gone comes back with its MAC.
    let known_node = known_node.attrs.or(before.and_then(|before| before.attrs));
    let uplinks = UplinkWatch::open(uplink_options(&flags.uplink, network, given))?;
    let announced = known_node.as_ref().map(PublicIps::from).unwrap_or_default();
    let uplink = uplinks.choose(&InUse::from(announced)).await?;
    let former = subnet_file::read_networks(subnet_file.path());
    let mut firewall = Firewall::start(firewall_options(flags), network, former)?;
    detach_former(flags, network, previous).await.unwrap_or_else(|error| warn!("{error:#}"));
    let mut node = Node::<B>::start(plan, uplink, known_node.as_ref()).await?;
    let answers = is_fresh && in_use.is_fresh;
    let terms = Terms {
        network,
        margin: flags.renew_margin(),
        hold: flags.lease_hold(),
        previous,
        addresses: uplinks.node_addresses().await?,
        given,
        last_known,
        patience: if answers { PATIENCE } else { Duration::ZERO },
    };
    let recorder = Recorder::new(flags.paths.last_known(), datastore(flags));
    let mut membership = Membership::new(store, terms, node.attributes(), recorder);
    let mut notices = Notices::new(store);
    let have_devices = network.backend.kind().has_device();
    let mut reachability = Reachability::new(flags.probe_interval(), have_devices);
    let mut next_network = network::changed(store, in_use).boxed_local();
    let mut next_uplink = next_uplink(uplinks, node.uplink());
    loop {
        tokio::select! {
            event = membership.changed() => match event {
                LeaseEvent::Taken { subnet, previous } => {
                    firewall.set_subnet(subnet, previous);
                    notices.warn("FlannelSubnetChanged", node.take_subnet(subnet, previous).await?);
                    notices.subnet_taken();
                    notices.slow_path(node.shortcoming());
                }
                LeaseEvent::Lost { subnet, why } => error!(
                    "the lease of {subnet} is lost: {why}; forwarding goes on while it is taken again"
                ),
                LeaseEvent::GivenWay => health.set_unready(),
                LeaseEvent::LastKnown { subnet, peers } => {
                    firewall.set_subnet(subnet, None);
                    node.go_on(subnet, peers).await?;
                }
                LeaseEvent::Peers(mut peers) => {
                    notices.warn("FlannelLeasesVanished", peers.alarm.take());
                    node.apply(peers).await;
                    notices.peers_applied();
                }
                LeaseEvent::Answer(peers) => node.settle_questions(peers).await,
            },
            (mut uplinks, uplink) = &mut next_uplink => {
                node = node.move_to(uplink, &mut uplinks).await;
                membership.readdress(node.attributes());
                next_uplink = self::next_uplink(uplinks, node.uplink());
            }
            work = node.work() => {
                node.perform(work).await;
                notices.slow_path(node.shortcoming());
            }
            () = firewall.tried(), if subnet_file.is_written() => {
                if !membership.has_given_way() {
                    health.set_ready();
                }
                // Said in any case: a unit that never starts is restarted, and would take the lease from the other node again.
                notify::ready();
                debug!("reported as ready");
                node.set_ready();
            }
            // What waits for the file has its turn.
            () = subnet_file.written(), if !subnet_file.is_written() => {}
            () = notices.deliver() => {}
            () = reachability.due() => reachability.step(node.peers()),
            next = &mut next_network => return Ok(next),
        }
        if !membership.is_asking() && node.wants_peers() {
            membership.ask();
        }
    }
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
