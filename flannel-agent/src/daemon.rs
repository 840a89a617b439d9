//! The story of a node: read the network's configuration, make the backend, take a subnet, tell others,
//! then follow the leases until told to stop. Stopping leaves everything in place. A node whose uplink changes
//! begins again at the backend, and keeps its subnet.

mod follow;
mod renewal;
mod settings;

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tracing::{error, info};

use crate::backend::alloc::Alloc;
use crate::backend::host_gw::HostGw;
use crate::backend::udp::Udp;
use crate::backend::vxlan::Vxlan;
use crate::backend::{Backend, Setup};
use crate::cli::Flags;
use crate::config::{self, DataplaneMode, NetworkConfig};
use crate::firewall::Firewall;
use crate::health::Health;
use crate::lease::etcd::EtcdManager;
use crate::lease::local::LocalManager;
use crate::lease::{LeaseAttrs, OwnLease, SubnetKey, SubnetManager};
use crate::metrics::{FailureKind, METRICS};
use crate::peer::Peer;
use crate::signals::Stop;
use crate::uplink::watch::UplinkWatch;
use crate::{notify, subnet_file};
use follow::{End, follow};
use settings::{etcd_options, firewall_options, uplink_options};

/// How long to wait between attempts at what cannot be done yet.
const RETRY: Duration = Duration::from_secs(1);

/// Runs the node until SIGTERM or SIGINT.
///
/// # Errors
/// What cannot be repaired by waiting: wrong flags, a configuration that this version cannot serve, no
/// uplink, no privilege.
pub async fn run(flags: Flags) -> Result<()> {
    let unsupported = flags.unsupported();
    if !unsupported.is_empty() {
        bail!(
            "this version does not have --{} yet; it would be a different network without",
            unsupported.join(", --")
        );
    }
    let mut stop = Stop::on_signals()?;
    let health = Health::default();
    if flags.healthz_port != 0 {
        health.listen(&flags.healthz_ip, flags.healthz_port).await?;
    }
    let finished = tokio::select! {
        () = stop.wait() => Ok(()),
        end = serve(&flags, &health) => end,
    };
    if finished.is_ok() {
        notify::stopping();
        info!("stopping; device, routes, programs and lease stay");
    }
    finished
}

async fn serve(flags: &Flags, health: &Health) -> Result<()> {
    if let Some(dir) = &flags.local_subnet_mgr {
        return serve_from(&LocalManager::new(dir.clone()), flags, health).await;
    }
    serve_from(&EtcdManager::new(etcd_options(flags)), flags, health).await
}

async fn serve_from(store: &impl SubnetManager, flags: &Flags, health: &Health) -> Result<()> {
    let network = patiently("reading the network configuration", || store.network_config()).await;
    if flags.dataplane == Some(DataplaneMode::Bpf) && !matches!(network.backend, config::Backend::Vxlan(_)) {
        bail!(
            "--dataplane bpf was asked for, which the backend {} does not have",
            network.backend.kind().name()
        );
    }
    match &network.backend {
        config::Backend::Vxlan(vxlan) => serve_with::<Vxlan>(store, flags, health, &network, vxlan).await,
        config::Backend::HostGw => serve_with::<HostGw>(store, flags, health, &network, &()).await,
        config::Backend::Alloc => serve_with::<Alloc>(store, flags, health, &network, &()).await,
        config::Backend::Udp(_) if network.ipv6.is_some() => {
            bail!(
                "EnableIPv6 is true and the backend is udp, which carries IPv4 only; vxlan and host-gw carry both"
            )
        }
        config::Backend::Udp(udp) => serve_with::<Udp>(store, flags, health, &network, udp).await,
    }
}

async fn serve_with<B: Backend>(
    store: &impl SubnetManager,
    flags: &Flags,
    health: &Health,
    network: &NetworkConfig,
    config: &B::Config,
) -> Result<()> {
    let mut uplinks = UplinkWatch::open(uplink_options(flags, network))?;
    let mut uplink = uplinks.choose().await?;
    let mut previous = subnet_file::read_previous(&flags.paths.subnet_file);
    let mut held: Option<Held> = None;
    let mut firewall = Firewall::new(firewall_options(flags), network)?;
    loop {
        info!("the uplink is {uplink}");
        let known = held.as_ref().map(|held| &held.lease.attrs);
        let setup = Setup { flags, network, config, uplink: &uplink, known };
        let mut backend: B = match start(setup, held.as_ref()).await {
            Err(error) if held.is_some() => {
                error!("moving to the uplink {}: {error:#}; trying again", uplink.name);
                tokio::time::sleep(RETRY).await;
                uplink = uplinks.choose().await.unwrap_or(uplink);
                continue;
            }
            started => started?,
        };
        let attrs = backend.attributes()?;
        let mut accelerated = false;
        uplink = loop {
            let lease = take(store, network, &attrs, held.take(), previous).await;
            let subnet = lease.subnet;
            if let Some(old) = previous.filter(|old| *old != subnet) {
                error!(
                    "this node had the subnet {old} and has {subnet} now: pods made before are cut off; make them anew"
                );
            }
            firewall.set_subnet(subnet, previous).await;
            publish(flags, network, &mut backend, &lease).await?;
            if !accelerated {
                backend.accelerate().await?;
                accelerated = true;
            }
            info!(%subnet, dataplane = backend.name(), "this node has its subnet");
            notify::status(&state(&lease, &backend));
            health.set_ready();
            notify::ready();
            previous = Some(subnet);
            let changed = uplinks.changed(&uplink);
            let margin = flags.renew_margin();
            match follow(store, network, &mut backend, &mut firewall, lease, margin, changed).await {
                End::LeaseLost(why) => {
                    error!(
                        "the lease of {subnet} is lost: {why}; forwarding goes on while it is taken again"
                    );
                }
                End::UplinkChanged(new, now) => {
                    held = Some(*now);
                    break new;
                }
            }
        };
    }
}

/// What a node keeps when its uplink changes.
struct Held {
    lease: OwnLease,
    peers: Vec<Peer>,
}

/// Makes or adopts the backend on this uplink. With a lease it carries at once what it carried before.
async fn start<B: Backend>(setup: Setup<'_, B::Config>, held: Option<&Held>) -> Result<B> {
    let mut backend = B::start(setup).await?;
    if let Some(Held { lease, peers }) = held {
        backend.serve(lease.subnet).await?;
        // What fails now is tried again by the first resync.
        backend.apply(peers).await.iter().for_each(|problem| error!("{problem:#}"));
    }
    Ok(backend)
}

/// The lease that we hold, with our new address in it, or another one.
async fn take(
    store: &impl SubnetManager,
    config: &NetworkConfig,
    attrs: &LeaseAttrs,
    held: Option<Held>,
    previous: Option<SubnetKey>,
) -> OwnLease {
    if let Some(Held { lease, .. }) = held {
        let moved = patiently("telling the others our address", || store.renew(&lease, attrs)).await;
        if let Ok(lease) = moved {
            return lease;
        }
    }
    patiently("taking a subnet", || store.acquire(config, attrs, previous)).await
}

/// Tries until it works: the datastore may come later than we do.
async fn patiently<T, F: Future<Output = Result<T>>>(what: &str, attempt: impl Fn() -> F) -> T {
    let mut told = String::new();
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => {
                METRICS.count_failure(FailureKind::Datastore);
                let problem = format!("{error:#}");
                if problem != told {
                    notify::status(&format!("{what}: {problem}"));
                    error!("{what}: {problem}; trying again every {} s", RETRY.as_secs());
                    told = problem;
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Makes the subnet ours on this machine and tells those who wait for it.
async fn publish(
    flags: &Flags,
    network: &NetworkConfig,
    backend: &mut impl Backend,
    lease: &OwnLease,
) -> Result<()> {
    backend.serve(lease.subnet).await?;
    let text = subnet_file::render(network, flags.ip_masq, lease.subnet, backend.mtu());
    let path = flags.paths.subnet_file.as_path();
    subnet_file::write(path, &text).with_context(|| format!("writing the subnet file {}", path.display()))
}

/// For people: which subnet, and what carries it.
fn state(lease: &OwnLease, backend: &impl Backend) -> String {
    let subnets: Vec<_> = lease.subnet.nets().map(|subnet| subnet.to_string()).collect();
    format!("{} on {}", subnets.join(" and "), backend.name())
}
