//! vxlan: the kernel's device as floor, and BPF on top of it.

mod overlay;
mod settings;

use anyhow::Result;
use tracing::warn;

use super::{Backend, Setup};
use crate::config::VxlanConfig;
use crate::dataplane::accelerator::{self, Accelerator, Settings};
use crate::dataplane::desired::Peer;
use crate::dataplane::kernel::Kernel;
use crate::lease::{LeaseAttrs, SubnetKey, VxlanData};
use crate::uplink::Uplink;
use overlay::Overlay;

/// The overlay of this node. IPv6 is carried by the floor.
pub struct Vxlan {
    kernel: Kernel,
    /// One for each address family, at least one.
    overlays: Vec<Overlay>,
    accelerator: Option<Accelerator>,
    uplink: Uplink,
    vni: u32,
}

impl Backend for Vxlan {
    type Config = VxlanConfig;

    async fn start(setup: Setup<'_, VxlanConfig>) -> Result<Self> {
        let accelerated = settings::accelerator(&setup)?;
        let kernel = Kernel::new()?;
        let mut overlays = Vec::new();
        for spec in settings::devices(&setup) {
            overlays.push(Overlay::start(&kernel, spec).await?);
        }
        let accelerator = accelerator(&accelerated, &overlays, setup.uplink)?;
        Ok(Self { kernel, overlays, accelerator, uplink: setup.uplink.clone(), vni: setup.config.vni })
    }

    fn attributes(&self) -> Result<LeaseAttrs> {
        let mut attrs = super::attributes("vxlan", &self.uplink);
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
        for overlay in &self.overlays {
            overlay.serve(&self.kernel, own).await?;
        }
        if let (Some(accelerator), Some(subnet)) = (&mut self.accelerator, own.v4) {
            accelerator.serve(subnet.into());
        }
        for error in self.follow_pods().await {
            warn!("{error:#}");
        }
        Ok(())
    }

    async fn apply(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        let mut errors = Vec::new();
        for overlay in &mut self.overlays {
            errors.extend(overlay.apply(&self.kernel, peers).await);
        }
        if let Some(Err(error)) = self.accelerator.as_mut().map(|accelerator| accelerator.apply(peers)) {
            errors.push(error);
        }
        errors
    }

    async fn resync(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        let mut errors = Vec::new();
        for overlay in &mut self.overlays {
            errors.extend(overlay.read(&self.kernel).await.err());
        }
        errors.extend(self.apply(peers).await);
        errors.extend(self.follow_pods().await);
        errors
    }

    async fn changed(&mut self) {
        match &mut self.accelerator {
            Some(accelerator) => accelerator.pods_changed().await,
            None => std::future::pending().await,
        }
    }

    async fn react(&mut self, _peers: &[Peer]) -> Vec<anyhow::Error> {
        self.follow_pods().await
    }
}

impl Vxlan {
    async fn follow_pods(&mut self) -> Vec<anyhow::Error> {
        match &mut self.accelerator {
            Some(accelerator) => accelerator.follow_pods(&self.kernel).await,
            None => Vec::new(),
        }
    }
}

/// BPF on the IPv4 overlay.
fn accelerator(settings: &Settings, overlays: &[Overlay], uplink: &Uplink) -> Result<Option<Accelerator>> {
    let ipv4 = overlays.iter().find(|overlay| !overlay.is_v6()).zip(uplink.ipv4);
    let Some((overlay, ends)) = ipv4 else { return Accelerator::without_ipv4(settings) };
    let (spec, device) = (overlay.spec(), overlay.device());
    Accelerator::start(settings, accelerator::Overlay { spec, device, uplink, local_ip: ends.local })
}
