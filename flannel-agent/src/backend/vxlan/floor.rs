//! The floor: what the kernel itself needs to carry packets to the peers.

use anyhow::{Error, Result};

use super::overlay::Overlay;
use super::settings;
use crate::backend::Setup;
use crate::backend::direct::Direct;
use crate::config::{SubnetRange, VxlanConfig};
use crate::dataplane::desired::Ways;
use crate::dataplane::entry::Miss;
use crate::dataplane::kernel::Kernel;
use crate::dataplane::kernel::events::{KernelEvent, KernelEvents};
use crate::lease::SubnetKey;
use crate::peer::Peer;

/// The floor of this node.
pub(super) struct NodeFloor {
    /// One for each address family, at least one.
    overlays: Vec<Overlay>,
    /// Routes to peers on the uplink's link, with DirectRouting. They need no overlay.
    direct: Direct,
    ranges: Vec<SubnetRange>,
    events: KernelEvents,
}

/// What has happened to the floor.
pub(super) enum FloorEvent {
    /// Something is not as it was left.
    Broken,
    /// A packet waits at this device for an entry.
    Miss(u32, Miss),
}

impl NodeFloor {
    /// Makes or adopts the devices, and reads what the kernel holds for them.
    pub(super) async fn start(kernel: &Kernel, setup: &Setup<'_, VxlanConfig>) -> Result<Self> {
        let mut overlays = Vec::new();
        for spec in settings::devices(setup) {
            overlays.push(Overlay::start(kernel, spec).await?);
        }
        let Setup { network, config, uplink, .. } = setup;
        let direct = Direct::start(kernel, uplink, network, config.direct_routing).await?;
        Ok(Self { overlays, direct, ranges: network.ranges().collect(), events: kernel.events()? })
    }

    pub(super) fn overlays(&self) -> &[Overlay] {
        &self.overlays
    }

    /// Gives the devices their addresses. Adds routes that answer "unreachable" for addresses without a lease.
    pub(super) async fn set_subnet(&mut self, kernel: &Kernel, own: SubnetKey) -> Result<()> {
        for overlay in &mut self.overlays {
            overlay.set_subnet(kernel, own).await?;
        }
        for range in &self.ranges {
            kernel.ensure_unreachable(range).await?;
        }
        Ok(())
    }

    /// Repairs devices and addresses, and reads what the kernel holds. Returns what failed, and whether a device had to be
    /// made again.
    pub(super) async fn repair(&mut self, kernel: &Kernel) -> (Vec<Error>, bool) {
        // Events up to now are about what is read here.
        self.events.discard();
        let (mut errors, mut recreated) = (Vec::new(), false);
        for overlay in &mut self.overlays {
            match overlay.repair(kernel).await {
                Ok(other) => recreated |= other,
                Err(error) => errors.push(error),
            }
        }
        for range in &self.ranges {
            errors.extend(kernel.ensure_unreachable(range).await.err());
        }
        errors.extend(self.direct.read(kernel).await.err());
        (errors, recreated)
    }

    /// Finds the way to each peer, and adds the direct routes that are missing: a peer that leaves the overlay has its new
    /// route before [`Self::apply`] removes the old one. Returns the ways, and what failed.
    pub(super) async fn prepare(&mut self, kernel: &Kernel, peers: &[Peer]) -> (Ways, Vec<Error>) {
        let (ways, mut errors) = self.direct.ways(kernel, peers).await;
        errors.extend(self.direct.add(kernel, &ways).await);
        (ways, errors)
    }

    /// Makes the kernel hold exactly what these ways need. A peer that comes to the overlay has its new route before the
    /// direct one goes. Not over IPv6: the kernel refuses an onlink gateway to which another device leads.
    pub(super) async fn apply(&mut self, kernel: &Kernel, ways: &Ways) -> Vec<Error> {
        let Self { overlays, direct, .. } = self;
        let mut errors = Vec::new();
        for overlay in overlays {
            if overlay.is_v6() {
                errors.extend(direct.remove(kernel, ways).await);
            }
            errors.extend(overlay.apply(kernel, &ways.tunnelled).await);
        }
        errors.extend(direct.remove(kernel, ways).await);
        errors
    }

    /// Adds these peers to the overlays. Returns `None` if that is not possible, and all peers are to be applied.
    pub(super) async fn add_peers(&mut self, kernel: &Kernel, joined: &[Peer]) -> Option<Vec<Error>> {
        if self.direct.is_wanted() {
            return None;
        }
        let mut errors = self.direct.remove(kernel, &Ways::tunnelled(joined)).await;
        for overlay in &mut self.overlays {
            errors.extend(overlay.add_peers(kernel, joined).await?);
        }
        Some(errors)
    }

    /// Waits for the next change. It may be dropped and called again; no change gets lost.
    pub(super) async fn changed(&mut self) -> FloorEvent {
        let Self { overlays, direct, events, .. } = self;
        tokio::select! {
            () = direct.changed() => FloorEvent::Broken,
            change = changed(events, overlays) => change,
        }
    }

    /// Answers a question of the kernel, if a peer is the answer.
    pub(super) async fn answer(&self, kernel: &Kernel, device: u32, miss: &Miss) -> Option<Result<()>> {
        let overlay = self.overlays.iter().find(|overlay| overlay.device().index == device)?;
        overlay.answer(kernel, miss).await
    }
}

/// Waits for an event that concerns one of the overlays.
async fn changed(events: &mut KernelEvents, overlays: &[Overlay]) -> FloorEvent {
    loop {
        let event = events.next().await;
        if overlays.iter().any(|overlay| overlay.is_broken_by(&event)) {
            return FloorEvent::Broken;
        }
        if let KernelEvent::Miss(device, miss) = event
            && overlays.iter().any(|overlay| overlay.device().index == device)
        {
            return FloorEvent::Miss(device, miss);
        }
    }
}
