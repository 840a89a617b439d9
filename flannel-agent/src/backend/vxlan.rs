//! vxlan: the kernel's device as floor, and BPF on top of it.

mod overlay;
mod settings;

use anyhow::{Context as _, Result};
use tracing::warn;

use super::{Backend, Setup};
use crate::config::VxlanConfig;
use crate::dataplane::accelerator::{self, Accelerator};
use crate::dataplane::desired::Peer;
use crate::dataplane::kernel::Kernel;
use crate::lease::{LeaseAttrs, SubnetKey, VxlanData};
use crate::uplink::Uplink;
use overlay::Overlay;

/// The overlay of this node.
pub struct Vxlan {
    kernel: Kernel,
    overlay: Overlay,
    accelerator: Option<Accelerator>,
    uplink: Uplink,
    vni: u32,
}

impl Backend for Vxlan {
    type Config = VxlanConfig;

    async fn start(setup: Setup<'_, VxlanConfig>) -> Result<Self> {
        let accelerated = settings::accelerator(&setup)?;
        let kernel = Kernel::new()?;
        let spec = settings::device(&setup);
        let overlay = Overlay::start(&kernel, &spec).await?;
        let uplink = setup.uplink;
        let node =
            accelerator::Overlay { spec: &spec, device: overlay.device(), uplink, local_ip: uplink.local_ip };
        let accelerator = Accelerator::start(&accelerated, node)?;
        Ok(Self { kernel, overlay, accelerator, uplink: uplink.clone(), vni: setup.config.vni })
    }

    fn attributes(&self) -> Result<LeaseAttrs> {
        let data = VxlanData { vni: Some(self.vni), vtep_mac: self.overlay.device().mac };
        Ok(LeaseAttrs {
            public_ip: Some(self.uplink.public_ip),
            public_ipv6: None,
            backend_type: "vxlan".to_owned(),
            backend_data: Some(serde_json::value::to_raw_value(&data)?),
            backend_v6_data: None,
        })
    }

    fn mtu(&self) -> u32 {
        self.overlay.device().mtu
    }

    fn name(&self) -> &'static str {
        if self.accelerator.is_some() { "bpf" } else { "netlink" }
    }

    /// The device gets the subnet's base address, as source of what the host itself sends.
    async fn serve(&mut self, own: SubnetKey) -> Result<()> {
        let subnet = own.nets().next().context("a lease without a subnet")?;
        self.overlay.serve(&self.kernel, subnet).await?;
        if let Some(accelerator) = &mut self.accelerator {
            accelerator.serve(subnet);
        }
        for error in self.follow_pods().await {
            warn!("{error:#}");
        }
        Ok(())
    }

    async fn apply(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        let mut errors = self.overlay.apply(&self.kernel, peers).await;
        if let Some(Err(error)) = self.accelerator.as_mut().map(|accelerator| accelerator.apply(peers)) {
            errors.push(error);
        }
        errors
    }

    async fn resync(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        if let Err(error) = self.overlay.read(&self.kernel).await {
            return vec![error];
        }
        let mut errors = self.apply(peers).await;
        errors.append(&mut self.follow_pods().await);
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
