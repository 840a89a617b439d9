//! BPF on top of a vxlan device, as far as it is wanted and the kernel has it.

mod facts;

use std::collections::BTreeMap;
use std::future::pending;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use flannel_common::event::Event;
use ipnet::IpNet;
use tokio::time::{Interval, interval};
use tracing::{info, warn};

use super::bpf::counters::PacketCounters;
use super::bpf::events::Events;
use super::bpf::pins::Pins;
use super::bpf::{self, Bpf};
use super::kernel::{Device, DeviceSpec, Kernel};
use super::shortcut::Shortcut;
use super::xdp;
use crate::config::{DataplaneMode, SubnetRange, XdpMode};
use crate::metrics::{METRICS, Registration};
use crate::peer::Peer;
use crate::uplink::Uplink;

/// What the accelerator is made from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// BPF or not.
    pub mode: DataplaneMode,
    /// Whether flows that the host stack lets through unchanged skip it.
    pub flow_cache: bool,
    /// Whether peers on the uplink's link have direct routes.
    pub direct_routing: bool,
    /// Where outer headers are taken off.
    pub xdp: XdpMode,
    /// Whether packets are dropped whose sender does not hold their source.
    pub source_check: bool,
    /// The networks that all pods are in, and how they are cut into nodes' subnets.
    pub ranges: Vec<SubnetRange>,
    /// Where BPF objects are pinned.
    pub pins: Pins,
    /// Whether BPF programs log every packet.
    pub log_packets: bool,
}

/// A device of the node's that the programs work for.
#[derive(Clone, Copy, Debug)]
pub struct AcceleratedDevice<'a> {
    /// As it was asked for.
    pub spec: &'a DeviceSpec,
    /// As it is.
    pub device: &'a Device,
    /// The interface that carries outer packets.
    pub uplink: &'a Uplink,
    /// Their source, whose family is that of the overlay.
    pub local_ip: IpAddr,
}

/// The programs, and who takes the shortcut through them.
pub struct Accelerator {
    bpf: Bpf,
    events: Events,
    shortcut: Option<Shortcut>,
    look: Interval,
    _counters: Registration,
}

/// What has happened to the accelerator.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// Pods may have come or gone.
    Pods,
    /// Somebody has taken the programs off their hooks.
    Detached,
    /// A program reports a packet.
    Event(Event),
}

/// How often it is looked whether the programs are on their hooks: nobody tells us when they are not.
const LOOK: Duration = Duration::from_secs(1);

impl Accelerator {
    /// BPF as the mode wants it: `auto` falls back with one warning, `bpf` fails, `netlink` takes away what an
    /// earlier agent left.
    ///
    /// # Errors
    /// In mode `bpf`, BPF cannot be had; or what an earlier agent left cannot be removed.
    pub fn start(settings: &Settings, overlays: &[AcceleratedDevice<'_>]) -> Result<Option<Self>> {
        let loaded = match settings.mode {
            DataplaneMode::Netlink => None,
            DataplaneMode::Bpf => Some(load(settings, overlays).context("--dataplane bpf was asked for")?),
            DataplaneMode::Auto => load(settings, overlays)
                .inspect_err(|error| {
                    warn!("BPF is not available, the kernel's vxlan device carries all: {error:#}");
                })
                .ok(),
        };
        let Some(mut bpf) = loaded else {
            bpf::detach(&settings.pins)?;
            return Ok(None);
        };
        let shortcut = if settings.flow_cache { Some(Shortcut::open()?) } else { None };
        let events = bpf.events()?;
        let counters = METRICS.register(PacketCounters(settings.pins.clone()));
        Ok(Some(Self { bpf, events, shortcut, look: interval(LOOK), _counters: counters }))
    }

    /// These are the node's own subnets from now on: pods are looked for in them, and nobody else may send from them.
    pub fn set_own_subnets(&mut self, subnets: &[IpNet]) {
        subnets.iter().for_each(|subnet| self.bpf.serve(*subnet));
        if let Some(shortcut) = &mut self.shortcut {
            shortcut.set_subnets(subnets);
        }
    }

    /// Makes the maps hold exactly these peers. `direct`: the subnets that are routed without a tunnel.
    ///
    /// # Errors
    /// A map cannot be written; the floor carries what is missing.
    pub fn apply(&mut self, peers: &[Peer], direct: &BTreeMap<IpNet, IpAddr>) -> Result<()> {
        self.bpf.apply(peers, direct)
    }

    /// Adds these peers to the maps; false if it is not done with adding, and all are to be applied.
    ///
    /// # Errors
    /// As of [`Self::apply`].
    pub fn add_peers(&mut self, joined: &[Peer]) -> Result<bool> {
        self.bpf.add_peers(joined)
    }

    /// Waits for the next change. It may be dropped and called again; no change gets lost.
    pub async fn changed(&mut self, kernel: &Kernel) -> Change {
        let Self { bpf, events, shortcut, look, .. } = self;
        let pods_changed = async {
            match shortcut {
                Some(shortcut) => shortcut.pods_changed().await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = pods_changed => Change::Pods,
            () = detached(bpf, look, kernel) => Change::Detached,
            event = events.next() => Change::Event(event),
        }
    }

    /// Lets the pods that are there now take the shortcut. Those that cannot are carried all the same.
    pub async fn follow_pods(&mut self, kernel: &Kernel) -> Vec<anyhow::Error> {
        match &mut self.shortcut {
            Some(shortcut) => shortcut.follow_pods(kernel, &mut self.bpf).await,
            None => self.bpf.follow(&[]),
        }
    }
}

/// Waits until the programs are not on their hooks.
async fn detached(bpf: &Bpf, look: &mut Interval, kernel: &Kernel) {
    loop {
        look.tick().await;
        if !bpf.is_attached(kernel).await {
            return;
        }
    }
}

fn load(settings: &Settings, overlays: &[AcceleratedDevice<'_>]) -> Result<Bpf> {
    overlays.iter().try_for_each(ensure_served)?;
    let node = facts::facts(settings, overlays)?;
    let mut bpf = Bpf::load(settings.pins.clone(), &node, settings.log_packets)?;
    let xdp = overlays.first().map(|overlay| xdp::Plan::of(settings.xdp, &overlay.uplink.name));
    bpf.release_xdp(xdp.as_ref().and_then(xdp::Plan::mode))?;
    let mechanism = bpf.attach(&facts::places(overlays, node.direct_routing != 0))?;
    for AcceleratedDevice { spec, uplink, .. } in overlays {
        info!(%mechanism, overlay = spec.name, uplink = uplink.name, "BPF programs attached");
    }
    xdp.map_or(Ok(()), |xdp| xdp.carry_out(&mut bpf, mechanism))?;
    if settings.log_packets {
        bpf.log()?;
    }
    give_memory_back();
    Ok(bpf)
}

fn ensure_served(AcceleratedDevice { spec, uplink, .. }: &AcceleratedDevice<'_>) -> Result<()> {
    if spec.learning {
        bail!("the BPF programs do not learn, which the network's Backend asks for with Learning");
    }
    if !uplink.ethernet {
        bail!("the uplink {} has no Ethernet header, which the BPF programs expect", uplink.name);
    }
    Ok(())
}

/// Loading parses the kernel's BTF, which takes some 20 MB that nothing needs any more. glibc would keep them.
fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers; the allocator gives back what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}
