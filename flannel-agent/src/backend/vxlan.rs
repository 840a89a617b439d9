//! vxlan: the kernel's device as floor, and BPF on top of it.

mod answers;
mod misses;
mod overlay;
mod peers;
mod settings;
mod strangers;

use std::time::Instant;

use anyhow::Result;
use ipnet::IpNet;
use tracing::warn;

use super::direct::Direct;
use super::{Backend, Setup};
use crate::config::{BackendType, DataplaneMode, VxlanConfig};
use crate::dataplane::accelerator::{self, Accelerator, Settings};
use crate::dataplane::desired;
use crate::dataplane::kernel::Kernel;
use crate::dataplane::kernel::events::{KernelEvent, KernelEvents};
use crate::lease::{LeaseAttrs, SubnetKey, VxlanData};
use crate::peer::Peer;
use crate::uplink::Uplink;
use misses::Misses;
use overlay::Overlay;
use strangers::Strangers;

/// The overlay of this node.
pub struct Vxlan {
    kernel: Kernel,
    /// One for each address family, at least one.
    overlays: Vec<Overlay>,
    /// With DirectRouting, the way to peers on the uplink's link, which need no overlay.
    direct: Direct,
    accelerator: Option<Accelerator>,
    accelerated: Settings,
    /// Whether there is an accelerator or not has been found out.
    decided: bool,
    uplink: Uplink,
    vni: u32,
    networks: Vec<IpNet>,
    own: Option<SubnetKey>,
    /// The peers that everything holds, as far as we know.
    applied: Option<Vec<Peer>>,
    news: KernelEvents,
    /// Something of ours is no longer as we left it.
    hurt: bool,
    misses: Misses,
    strangers: Strangers,
    /// The datastore may know more than the peers.
    wants_peers: bool,
}

impl Backend for Vxlan {
    type Config = VxlanConfig;

    async fn start(setup: Setup<'_, VxlanConfig>) -> Result<Self> {
        let accelerated = settings::accelerator(&setup);
        let kernel = Kernel::new()?;
        let mut overlays = Vec::new();
        for spec in settings::devices(&setup) {
            overlays.push(Overlay::start(&kernel, spec).await?);
        }
        let Setup { network, config, uplink, .. } = setup;
        let direct = Direct::start(&kernel, uplink, network, config.direct_routing).await?;
        let mut vxlan = Self {
            news: kernel.events()?,
            networks: network.networks().collect(),
            kernel,
            overlays,
            direct,
            accelerator: None,
            accelerated,
            decided: false,
            uplink: uplink.clone(),
            vni: config.vni,
            own: None,
            applied: None,
            hurt: false,
            misses: Misses::default(),
            strangers: Strangers::default(),
            wants_peers: false,
        };
        // An earlier agent's programs may be for a device that is no more; and who insists on BPF must not get a subnet
        // without.
        if vxlan.accelerated.pins.are_there() || vxlan.accelerated.mode == DataplaneMode::Bpf {
            vxlan.load_programs().await?;
        }
        Ok(vxlan)
    }

    fn attributes(&self) -> Result<LeaseAttrs> {
        let mut attrs = super::attributes(BackendType::Vxlan, &self.uplink);
        for overlay in &self.overlays {
            let data = VxlanData { vni: Some(self.vni), vtep_mac: overlay.device().mac };
            let data = Some(serde_json::value::to_raw_value(&data)?);
            if overlay.is_v6() { attrs.backend_v6_data = data } else { attrs.backend_data = data }
        }
        Ok(attrs)
    }

    /// Pods have one MTU for both families, so it is the smaller one.
    fn mtu(&self) -> u32 {
        self.overlays.iter().map(|overlay| overlay.device().mtu).min().unwrap_or_default()
    }

    fn name(&self) -> &'static str {
        if self.accelerator.is_some() { "bpf" } else { "netlink" }
    }

    async fn serve(&mut self, own: SubnetKey) -> Result<()> {
        for overlay in &mut self.overlays {
            overlay.serve(&self.kernel, own).await?;
        }
        self.own = Some(own);
        self.applied = None;
        for network in &self.networks {
            self.kernel.ensure_unreachable(*network).await?;
        }
        self.serve_accelerated();
        for error in self.follow_pods().await {
            warn!("{error:#}");
        }
        Ok(())
    }

    async fn accelerate(&mut self) -> Result<()> {
        if self.decided { Ok(()) } else { self.load_programs().await }
    }

    async fn apply(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        let before = self.applied.replace(peers.to_vec());
        if let Some(joined) = before.and_then(|before| desired::joined(&before, peers))
            && let Some(errors) = self.add_peers(&joined).await
        {
            return errors;
        }
        self.apply_all(peers).await
    }

    async fn resync(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        let mut errors = self.heal().await;
        errors.extend(self.direct.read(&self.kernel).await.err());
        errors.extend(self.apply(peers).await);
        errors.extend(self.follow_pods().await);
        errors
    }

    /// Pods that come or go and hooks without programs matter to the accelerator, routes of the underlay to
    /// DirectRouting, and to all what others did to what is ours, and what the kernel and the programs ask for.
    async fn changed(&mut self) {
        loop {
            let Self { kernel, news, overlays, accelerator, misses, hurt, .. } = self;
            let accelerated = async {
                match accelerator {
                    Some(accelerator) => accelerator.changed(kernel).await,
                    None => std::future::pending().await,
                }
            };
            let told = tokio::select! {
                told = accelerated => told,
                () = self.direct.changed() => None,
                noticed = noticed(news, overlays, misses) => {
                    *hurt |= noticed;
                    None
                }
            };
            if told.is_none_or(|event| self.hear(&event)) {
                return;
            }
        }
    }

    async fn react(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        let mut errors = if self.hurt || self.direct.is_stale() || self.is_detached() {
            self.resync(peers).await
        } else {
            self.follow_pods().await
        };
        errors.extend(self.answer().await);
        errors
    }

    fn wants_peers(&mut self) -> bool {
        std::mem::take(&mut self.wants_peers)
    }
}

impl Vxlan {
    /// Makes devices, addresses and programs what they should be, and reads what else the kernel holds.
    async fn heal(&mut self) -> Vec<anyhow::Error> {
        // What is known by now is what we are about to read.
        self.news.discard();
        self.hurt = false;
        self.applied = None;
        let mut errors = Vec::new();
        let mut renewed = false;
        for overlay in &mut self.overlays {
            match overlay.heal(&self.kernel).await {
                Ok(other) => renewed |= other,
                Err(error) => errors.push(error),
            }
        }
        for network in &self.networks {
            errors.extend(self.kernel.ensure_unreachable(*network).await.err());
        }
        if self.is_detached() {
            warn!("somebody has taken the BPF programs off their hooks; attaching them again");
            renewed = true;
        }
        if renewed {
            errors.extend(self.load_programs().await.err());
        }
        errors
    }

    /// Whether somebody has taken the programs off their hooks.
    fn is_detached(&self) -> bool {
        self.accelerator.as_ref().is_some_and(Accelerator::is_detached)
    }

    /// Loads and attaches the programs, or takes an earlier agent's away.
    async fn load_programs(&mut self) -> Result<()> {
        self.accelerator = accelerator(&self.accelerated, &self.overlays, &self.uplink)?;
        self.decided = true;
        self.applied = None;
        if self.own.is_some() {
            self.serve_accelerated();
            self.follow_pods().await.iter().for_each(|error| warn!("{error:#}"));
        }
        Ok(())
    }

    /// Tells the programs which subnets are ours.
    fn serve_accelerated(&mut self) {
        if let (Some(accelerator), Some(own)) = (&mut self.accelerator, self.own) {
            accelerator.serve(&own.nets().collect::<Vec<_>>());
        }
    }

    async fn follow_pods(&mut self) -> Vec<anyhow::Error> {
        match &mut self.accelerator {
            Some(accelerator) => accelerator.follow_pods(&self.kernel).await,
            None => Vec::new(),
        }
    }
}

/// Waits until something of these overlays' is hurt, which is true, or the kernel asks for something.
async fn noticed(news: &mut KernelEvents, overlays: &[Overlay], misses: &mut Misses) -> bool {
    loop {
        let one = news.next().await;
        if overlays.iter().any(|overlay| overlay.is_hurt_by(&one)) {
            return true;
        }
        if let KernelEvent::Miss(device, miss) = one
            && overlays.iter().any(|overlay| overlay.device().index == device)
            && misses.ask(device, miss, Instant::now())
        {
            return false;
        }
    }
}

/// BPF on the overlays.
fn accelerator(settings: &Settings, overlays: &[Overlay], uplink: &Uplink) -> Result<Option<Accelerator>> {
    let served = |overlay| accelerator::Overlay {
        spec: Overlay::spec(overlay),
        device: overlay.device(),
        uplink,
        local_ip: overlay.spec().local,
    };
    Accelerator::start(settings, &overlays.iter().map(served).collect::<Vec<_>>())
}
