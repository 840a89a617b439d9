//! The story of a node: read the network's configuration, make the device, take a subnet, tell others,
//! then follow the leases until told to stop. Stopping leaves everything in place.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{error, info, warn};

use crate::cli::{Flags, Mode};
use crate::config::{Backend, NetworkConfig, VxlanConfig};
use crate::dataplane::bpf::pins::Pins;
use crate::dataplane::kernel::{DeviceSpec, Kernel};
use crate::dataplane::{Dataplane, Settings};
use crate::lease::etcd::{EtcdManager, EtcdOptions};
use crate::lease::local::LocalManager;
use crate::lease::pick::PublicIps;
use crate::lease::set::LeaseSet;
use crate::lease::{LeaseAttrs, LeaseUpdate, OwnLease, SubnetManager, VxlanData};
use crate::signals::Stop;
use crate::subnet_file;
use crate::uplink::{self, Uplink, UplinkOptions};

/// Bytes that VXLAN over IPv4 adds to a packet: outer IPv4, UDP and VXLAN headers, inner Ethernet header.
const ENCAPSULATION: u32 = 50;
/// How long to wait between attempts at what cannot be done yet.
const RETRY: Duration = Duration::from_secs(1);
/// The least time between renewals.
const LEAST_RENEWAL: Duration = Duration::from_secs(60);
/// How often the kernel's entries are read back and repaired.
const RESYNC: Duration = Duration::from_secs(60);
/// Lease updates in flight between datastore and dataplane (flanneld's EVENT_QUEUE_DEPTH).
const QUEUE: usize = 5000;

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
    let finished = tokio::select! {
        () = stop.wait() => Ok(()),
        end = serve(&flags) => end,
    };
    if finished.is_ok() {
        info!("stopping; device, routes, programs and lease stay");
    }
    finished
}

async fn serve(flags: &Flags) -> Result<()> {
    if let Some(dir) = &flags.local_subnet_mgr {
        return serve_from(&LocalManager::new(dir.clone()), flags).await;
    }
    let etcd = EtcdOptions { endpoints: flags.etcd_endpoints.clone(), prefix: flags.etcd_prefix.clone() };
    serve_from(&EtcdManager::new(etcd), flags).await
}

async fn serve_from(store: &impl SubnetManager, flags: &Flags) -> Result<()> {
    let kernel = Kernel::new()?;
    let config = patiently("reading the network configuration", || store.network_config()).await;
    let vxlan = served(&config)?;
    let uplink = uplink::choose(kernel.handle(), &uplink_options(flags)).await?;
    info!(interface = uplink.name, address = %uplink.local_ip, public = %uplink.public_ip, "uplink");

    let settings = settings(flags, vxlan, &uplink)?;
    let mut dataplane = Dataplane::start(kernel, &settings).await?;
    let attrs = attributes(&uplink, vxlan, &dataplane)?;
    let mut previous = subnet_file::read_previous(&flags.subnet_file);
    loop {
        let lease = patiently("taking a subnet", || store.acquire(&config, &attrs, previous)).await;
        info!(subnet = %lease.subnet, dataplane = dataplane.name(), "this node has its subnet");
        publish(flags, &config, &dataplane, &lease).await?;
        previous = Some(lease.subnet);
        follow(store, &config, &mut dataplane, lease, renew_margin(flags)).await;
        error!("the lease is lost; forwarding goes on while it is taken again");
    }
}

/// Tries until it works: the datastore may come later than we do.
async fn patiently<T, F: Future<Output = Result<T>>>(what: &str, attempt: impl Fn() -> F) -> T {
    let mut told = String::new();
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) => {
                let problem = format!("{error:#}");
                if problem != told {
                    error!("{what}: {problem}; trying again every {} s", RETRY.as_secs());
                    told = problem;
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// The part of the configuration that this version serves.
fn served(config: &NetworkConfig) -> Result<&VxlanConfig> {
    if config.ipv6.is_some() {
        bail!("the network configuration has EnableIPv6, which this version does not serve yet");
    }
    match &config.backend {
        Backend::Vxlan(vxlan) => Ok(vxlan),
        Backend::Other(name) => bail!("backend type {name:?} is not served by this version; it has: vxlan"),
    }
}

fn uplink_options(flags: &Flags) -> UplinkOptions {
    UplinkOptions { ifaces: flags.iface.clone(), public_ip: flags.public_ip, public_ipv6: flags.public_ipv6 }
}

fn settings(flags: &Flags, vxlan: &VxlanConfig, uplink: &Uplink) -> Result<Settings> {
    Ok(Settings {
        device: DeviceSpec {
            name: format!("flannel.{}", vxlan.vni),
            vni: vxlan.vni,
            port: vxlan.udp_port(),
            uplink_index: uplink.index,
            local: uplink.local_ip.into(),
            mtu: vxlan.mtu.unwrap_or(uplink.mtu).saturating_sub(ENCAPSULATION),
            gbp: vxlan.gbp,
            learning: vxlan.learning,
            mac: None,
        },
        uplink: uplink.clone(),
        mode: mode(flags, vxlan)?,
        pins: Pins::new(&flags.bpffs, vxlan.vni),
        log_packets: flags.log_packets(),
    })
}

/// The flag, else the network's wish, else auto.
fn mode(flags: &Flags, vxlan: &VxlanConfig) -> Result<Mode> {
    use clap::ValueEnum as _;
    match (flags.dataplane, &vxlan.dataplane) {
        (Some(mode), _) => Ok(mode),
        (None, None) => Ok(Mode::default()),
        (None, Some(name)) => Mode::from_str(name, true).map_err(|_| {
            anyhow::anyhow!("Backend.Dataplane is {name:?}; it can be \"auto\", \"bpf\" or \"netlink\"")
        }),
    }
}

/// What the other nodes need to reach us.
fn attributes(uplink: &Uplink, vxlan: &VxlanConfig, dataplane: &Dataplane) -> Result<LeaseAttrs> {
    let data = VxlanData { vni: Some(vxlan.vni), vtep_mac: dataplane.device().mac };
    Ok(LeaseAttrs {
        public_ip: Some(uplink.public_ip),
        public_ipv6: None,
        backend_type: "vxlan".to_owned(),
        backend_data: Some(serde_json::value::to_raw_value(&data)?),
        backend_v6_data: None,
    })
}

/// Makes the subnet ours on this machine and tells those who wait for it.
async fn publish(
    flags: &Flags,
    config: &NetworkConfig,
    dataplane: &Dataplane,
    lease: &OwnLease,
) -> Result<()> {
    let subnet = lease.subnet.v4.context("a lease without an IPv4 subnet")?;
    dataplane.set_address(IpNet::V4(subnet)).await?;
    let text = subnet_file::render(config, flags.ip_masq, lease.subnet, dataplane.device().mtu);
    let path = flags.subnet_file.as_path();
    subnet_file::write(path, &text).with_context(|| format!("writing the subnet file {}", path.display()))?;
    let status = format!("{subnet} on {}", dataplane.name());
    // Not under systemd is not an error.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status(&status)]);
    Ok(())
}

fn renew_margin(flags: &Flags) -> Duration {
    Duration::from_secs(60 * flags.subnet_lease_renew_margin)
}

/// Follows the leases and keeps ours, until ours is lost.
async fn follow(
    store: &impl SubnetManager,
    config: &NetworkConfig,
    dataplane: &mut Dataplane,
    mut lease: OwnLease,
    margin: Duration,
) {
    let (sender, mut updates) = mpsc::channel(QUEUE);
    let watch = store.watch(sender);
    tokio::pin!(watch);
    let mut leases = LeaseSet::new(config, lease.subnet);
    let us = PublicIps::from(&lease.attrs);
    let mut resync = tokio::time::interval_at(Instant::now() + RESYNC, RESYNC);
    resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut renewal = renewal_of(&lease, margin);
    loop {
        tokio::select! {
            () = &mut watch => return,
            Some(update) = updates.recv() => {
                take_in(&mut leases, update, &mut updates);
                report(dataplane.apply(&leases.peers()).await, &mut resync);
                if !leases.own().is_some_and(|holder| holder.same_node(&us)) {
                    return;
                }
            }
            _ = resync.tick() => report(dataplane.resync(&leases.peers()).await, &mut resync),
            () = at(renewal) => match store.renew(&lease).await {
                Ok(Some(renewed)) => {
                    info!(subnet = %renewed.subnet, "lease renewed");
                    lease = renewed;
                    renewal = renewal_of(&lease, margin);
                }
                Ok(None) => return,
                Err(error) => {
                    warn!("renewing the lease of {}: {error:#}; trying again", lease.subnet);
                    renewal = Some(Instant::now() + RETRY);
                }
            },
        }
    }
}

/// Takes in an update and all that wait behind it, so that a burst is one change of the dataplane.
fn take_in(leases: &mut LeaseSet, first: LeaseUpdate, more: &mut mpsc::Receiver<LeaseUpdate>) {
    let waiting = std::iter::from_fn(|| more.try_recv().ok());
    for update in std::iter::once(first).chain(waiting) {
        for refusal in leases.apply(update) {
            warn!("{refusal}");
        }
    }
}

/// Logs what failed and has it tried again soon.
fn report(errors: Vec<anyhow::Error>, resync: &mut tokio::time::Interval) {
    for problem in &errors {
        error!("{problem:#}");
    }
    if !errors.is_empty() {
        resync.reset_after(RETRY);
    }
}

fn renewal_of(lease: &OwnLease, margin: Duration) -> Option<Instant> {
    // A margin as long as the lease must not mean renewing all the time.
    let soonest = Instant::now() + LEAST_RENEWAL;
    lease.term.map(|ends| ends.checked_sub(margin).map_or(soonest, |due| due.max(soonest)))
}

/// At that time, or never.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
