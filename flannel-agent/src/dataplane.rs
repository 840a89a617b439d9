//! From leases to packets: [`desired`] says what should be there, the sinks see to it: [`kernel`], the
//! floor, always; [`bpf`], the accelerator on top of it, where it loads.

use anyhow::{Context as _, Result, bail};
use flannel_common::abi;
use flannel_common::node::Node;
use ipnet::IpNet;
use tracing::{debug, info, warn};

use crate::cli::Mode;
use crate::uplink::Uplink;

pub mod bpf;
pub mod desired;
pub mod kernel;
mod shortcut;

use bpf::Bpf;
use bpf::pins::Pins;
use desired::{Floor, Peer};
use kernel::{Device, DeviceSpec, Kernel};
use shortcut::Shortcut;

/// What the dataplane is made from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The vxlan device to have.
    pub device: DeviceSpec,
    /// The interface that carries outer packets.
    pub uplink: Uplink,
    /// BPF or not.
    pub mode: Mode,
    /// Whether flows that the host stack lets through unchanged skip it, with BPF.
    pub flow_cache: bool,
    /// Whether packets are dropped whose sender does not hold their source, with BPF.
    pub source_check: bool,
    /// Where BPF objects are pinned.
    pub pins: Pins,
    /// Whether BPF programs log every packet.
    pub log_packets: bool,
}

/// The overlay of this node.
pub struct Dataplane {
    kernel: Kernel,
    device: Device,
    bpf: Option<Bpf>,
    /// What the kernel holds, as far as we know.
    floor: Floor,
    nexthops: bool,
    shortcut: Option<Shortcut>,
}

impl Dataplane {
    /// Makes or adopts the vxlan device and puts BPF on top of it, or not.
    ///
    /// # Errors
    /// The device cannot be had; or, in mode `bpf`, BPF cannot.
    pub async fn start(kernel: Kernel, settings: &Settings) -> Result<Self> {
        let device = kernel.ensure_device(&settings.device).await?;
        let floor = kernel.actual(&device).await?;
        let nexthops = kernel.has_nexthops().await;
        let bpf = accelerate(settings, &device)?;
        let shortcut = match bpf {
            Some(_) if settings.flow_cache => Some(Shortcut::open()?),
            _ => None,
        };
        Ok(Self { kernel, device, bpf, floor, nexthops, shortcut })
    }

    /// The vxlan device.
    #[must_use]
    pub const fn device(&self) -> &Device {
        &self.device
    }

    /// What moves the packets, for people.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        if self.bpf.is_some() { "bpf" } else { "netlink" }
    }

    /// Takes the node's subnet: the device gets its address, the base of it, as source of what the host itself
    /// sends, and pods in it are found.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn serve(&mut self, subnet: IpNet) -> Result<()> {
        let address = IpNet::from(subnet.network());
        self.kernel.ensure_address(&self.device, address).await?;
        if let (Some(bpf), IpNet::V4(subnet)) = (&mut self.bpf, subnet) {
            bpf.serve(subnet);
        }
        if let Some(shortcut) = &mut self.shortcut {
            shortcut.serve(subnet);
        }
        for error in self.follow_pods().await {
            warn!("{error:#}");
        }
        Ok(())
    }

    /// Waits until pods may have come or gone; forever, if that does not matter.
    pub async fn pods_changed(&mut self) {
        match &mut self.shortcut {
            Some(shortcut) => shortcut.pods_changed().await,
            None => std::future::pending().await,
        }
    }

    /// Lets the pods that are there now take the shortcut. Those that cannot are carried all the same.
    pub async fn follow_pods(&mut self) -> Vec<anyhow::Error> {
        match (&mut self.bpf, &mut self.shortcut) {
            (Some(bpf), Some(shortcut)) => shortcut.follow_pods(&self.kernel, bpf).await,
            (Some(bpf), None) => bpf.follow(&[]),
            (None, _) => Vec::new(),
        }
    }

    /// Makes kernel and maps hold exactly these peers. What fails is reported and tried again by
    /// [`Self::resync`]; the rest is done all the same.
    pub async fn apply(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        let desired = Floor::of(peers, self.nexthops);
        let changes = self.floor.changes_to(&desired);
        let mut errors = Vec::new();
        if !changes.is_empty() {
            errors = self.kernel.apply(&self.device, changes).await;
            debug!(routes = desired.routes.len(), errors = errors.len(), "kernel entries brought up to date");
        }
        if let Some(Err(error)) = self.bpf.as_mut().map(|bpf| bpf.apply(peers)) {
            errors.push(error);
        }
        self.floor = desired;
        errors
    }

    /// Reads what the kernel really holds and repairs it.
    pub async fn resync(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        match self.kernel.actual(&self.device).await {
            Ok(floor) => self.floor = floor,
            Err(error) => return vec![error],
        }
        let mut errors = self.apply(peers).await;
        errors.append(&mut self.follow_pods().await);
        errors
    }
}

/// BPF as the mode wants it: `auto` falls back with one warning, `bpf` fails, `netlink` takes away what an
/// earlier agent left.
fn accelerate(settings: &Settings, device: &Device) -> Result<Option<Bpf>> {
    let loaded = match settings.mode {
        Mode::Netlink => None,
        Mode::Bpf => Some(start_bpf(settings, device).context("--dataplane bpf was asked for")?),
        Mode::Auto => start_bpf(settings, device)
            .inspect_err(|error| {
                warn!("BPF is not available, the kernel's vxlan device carries all: {error:#}");
            })
            .ok(),
    };
    if loaded.is_none() {
        bpf::detach(&settings.pins)?;
    }
    Ok(loaded)
}

fn start_bpf(settings: &Settings, device: &Device) -> Result<Bpf> {
    if settings.device.gbp || settings.device.learning {
        bail!("the BPF programs have neither GBP nor Learning, which the network's Backend asks for");
    }
    let Settings { device: spec, uplink, .. } = settings;
    if !uplink.ethernet {
        bail!("the uplink {} has no Ethernet header, which the BPF programs expect", uplink.name);
    }
    let node = Node {
        layout: abi::LAYOUT,
        overlay_ifindex: device.index,
        uplink_ifindex: uplink.index,
        vni: spec.vni,
        uplink_mtu: uplink.mtu,
        local_ip: uplink.local_ip.octets(),
        vtep_mac: device.mac.0,
        port: spec.port.to_be_bytes(),
        flow_cache: settings.flow_cache.into(),
        source_check: settings.source_check.into(),
    };
    let mut bpf = Bpf::load(settings.pins.clone(), settings.log_packets)?;
    bpf.configure(&node)?;
    let mechanism = bpf.attach(&spec.name, &uplink.name, &node)?;
    info!(%mechanism, overlay = spec.name, uplink = uplink.name, "BPF programs attached");
    if settings.log_packets {
        bpf.log()?;
    }
    Ok(bpf)
}
