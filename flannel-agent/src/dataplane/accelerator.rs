//! BPF on top of a vxlan device, as far as it is wanted and the kernel has it.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, bail};
use flannel_common::abi;
use flannel_common::node::Node;
use ipnet::IpNet;
use tracing::{info, warn};

use super::bpf::pins::Pins;
use super::bpf::{self, Bpf};
use super::desired::Peer;
use super::kernel::{Device, DeviceSpec, Kernel};
use super::shortcut::Shortcut;
use super::xdp;
use crate::cli::{Mode, Xdp};
use crate::metrics::METRICS;
use crate::uplink::Uplink;

/// What the accelerator is made from.
#[derive(Clone, Debug)]
pub struct Settings {
    /// BPF or not.
    pub mode: Mode,
    /// Whether flows that the host stack lets through unchanged skip it.
    pub flow_cache: bool,
    /// Where outer headers are taken off.
    pub xdp: Xdp,
    /// Whether packets are dropped whose sender does not hold their source.
    pub source_check: bool,
    /// Where BPF objects are pinned.
    pub pins: Pins,
    /// Whether BPF programs log every packet.
    pub log_packets: bool,
}

/// The node's device that the programs work for, over IPv4.
#[derive(Clone, Copy, Debug)]
pub struct Overlay<'a> {
    /// As it was asked for.
    pub spec: &'a DeviceSpec,
    /// As it is.
    pub device: &'a Device,
    /// The interface that carries outer packets.
    pub uplink: &'a Uplink,
    /// Their source.
    pub local_ip: Ipv4Addr,
}

/// The programs, and who takes the shortcut through them.
pub struct Accelerator {
    bpf: Bpf,
    shortcut: Option<Shortcut>,
}

impl Accelerator {
    /// BPF as the mode wants it: `auto` falls back with one warning, `bpf` fails, `netlink` takes away what an
    /// earlier agent left.
    ///
    /// # Errors
    /// In mode `bpf`, BPF cannot be had; or what an earlier agent left cannot be removed.
    pub fn start(settings: &Settings, overlay: Overlay<'_>) -> Result<Option<Self>> {
        let loaded = match settings.mode {
            Mode::Netlink => None,
            Mode::Bpf => Some(load(settings, overlay).context("--dataplane bpf was asked for")?),
            Mode::Auto => load(settings, overlay)
                .inspect_err(|error| {
                    warn!("BPF is not available, the kernel's vxlan device carries all: {error:#}");
                })
                .ok(),
        };
        METRICS.count_packets_of(loaded.is_some().then(|| settings.pins.clone()));
        let Some(bpf) = loaded else {
            bpf::detach(&settings.pins)?;
            return Ok(None);
        };
        let shortcut = if settings.flow_cache { Some(Shortcut::open()?) } else { None };
        Ok(Some(Self { bpf, shortcut }))
    }

    /// What is there instead where the network has no IPv4: nothing, and nothing of an earlier agent's.
    ///
    /// # Errors
    /// In mode `bpf`; or what an earlier agent left cannot be removed.
    pub fn without_ipv4(settings: &Settings) -> Result<Option<Self>> {
        let reason = "the BPF programs carry IPv4, of which this network has none";
        match settings.mode {
            Mode::Bpf => bail!("--dataplane bpf was asked for: {reason}"),
            Mode::Auto => info!("{reason}: the kernel's vxlan device carries all"),
            Mode::Netlink => {}
        }
        bpf::detach(&settings.pins)?;
        Ok(None)
    }

    /// This is the node's own subnet from now on: pods are looked for in it, and nobody else may send from it.
    pub fn serve(&mut self, subnet: IpNet) {
        if let IpNet::V4(subnet) = subnet {
            self.bpf.serve(subnet);
        }
        if let Some(shortcut) = &mut self.shortcut {
            shortcut.serve(subnet);
        }
    }

    /// Makes the maps hold exactly these peers.
    ///
    /// # Errors
    /// A map cannot be written; the floor carries what is missing.
    pub fn apply(&mut self, peers: &[Peer]) -> Result<()> {
        self.bpf.apply(peers)
    }

    /// Waits until pods may have come or gone; forever, if that does not matter.
    pub async fn pods_changed(&mut self) {
        match &mut self.shortcut {
            Some(shortcut) => shortcut.pods_changed().await,
            None => std::future::pending().await,
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

fn load(settings: &Settings, overlay: Overlay<'_>) -> Result<Bpf> {
    let Overlay { spec, device, uplink, local_ip } = overlay;
    if spec.gbp || spec.learning {
        bail!("the BPF programs have neither GBP nor Learning, which the network's Backend asks for");
    }
    if !uplink.ethernet {
        bail!("the uplink {} has no Ethernet header, which the BPF programs expect", uplink.name);
    }
    let node = Node {
        layout: abi::LAYOUT,
        overlay_ifindex: device.index,
        uplink_ifindex: uplink.index,
        vni: spec.vni,
        uplink_mtu: uplink.mtu,
        local_ip: local_ip.octets(),
        vtep_mac: device.mac.0,
        port: spec.port.to_be_bytes(),
        flow_cache: settings.flow_cache.into(),
        source_check: settings.source_check.into(),
        uplink_mac: uplink.mac.unwrap_or_default().0,
        ..Node::default()
    };
    let mut bpf = Bpf::load(settings.pins.clone(), settings.log_packets)?;
    bpf.configure(&node)?;
    let xdp = xdp::Plan::of(settings.xdp, &uplink.name);
    bpf.release_xdp(xdp.mode())?;
    let mechanism = bpf.attach(&spec.name, &uplink.name)?;
    info!(%mechanism, overlay = spec.name, uplink = uplink.name, "BPF programs attached");
    xdp.carry_out(&mut bpf, mechanism)?;
    if settings.log_packets {
        bpf.log()?;
    }
    give_memory_back();
    Ok(bpf)
}

/// Loading parses the kernel's BTF, which takes some 20 MB that nothing needs any more. glibc would keep them.
fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no pointers; the allocator gives back what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}
