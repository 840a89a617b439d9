//! BPF on the floor: wanted or not, loaded or not.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::IpAddr;

use anyhow::{Error, Result};
use ipnet::IpNet;

use super::overlay::Overlay;
use crate::config::DataplaneMode;
use crate::dataplane::accelerator::{AcceleratedDevice, Accelerator, AcceleratorEvent, Settings, Started};
use crate::dataplane::kernel::Kernel;
use crate::lease::SubnetKey;
use crate::peer::Peer;
use crate::uplink::Uplink;

/// The accelerator of this node, if there is one. Without one everything here does nothing, and succeeds.
pub(super) struct Acceleration {
    settings: Settings,
    state: State,
}

enum State {
    /// Loading has not been tried yet.
    NotProbed,
    /// BPF is not wanted, or the kernel cannot load the programs: why.
    Absent(Option<String>),
    Present(Box<Accelerator>),
}

impl Acceleration {
    pub(super) const fn new(settings: Settings) -> Self {
        Self { settings, state: State::NotProbed }
    }

    /// Returns whether to [`Self::load`] before a subnet is taken.
    pub(super) fn precedes_subnet(&self) -> bool {
        self.settings.pins.exist() || self.settings.mode == DataplaneMode::Bpf
    }

    pub(super) const fn is_probed(&self) -> bool {
        !matches!(self.state, State::NotProbed)
    }

    pub(super) const fn is_present(&self) -> bool {
        matches!(self.state, State::Present(_))
    }

    /// Loads and attaches the programs for these overlays, or detaches an earlier agent's.
    pub(super) fn load(&mut self, overlays: &[Overlay], uplink: &Uplink) -> Result<()> {
        let devices: Vec<_> = overlays.iter().map(|overlay| accelerated(overlay, uplink)).collect();
        self.state = match Accelerator::start(&self.settings, &devices)? {
            Started::Present(accelerator) => State::Present(accelerator),
            Started::NotWanted => State::Absent(None),
            Started::Refused(why) => State::Absent(Some(why)),
        };
        Ok(())
    }

    /// Returns why packets do not take the way that was asked for.
    pub(super) fn shortcoming(&self) -> Option<String> {
        match &self.state {
            State::Present(accelerator) => accelerator.shortcoming(),
            State::Absent(why) => why.clone(),
            State::NotProbed => None,
        }
    }

    pub(super) fn set_own_subnets(&mut self, own: SubnetKey) {
        if let State::Present(accelerator) = &mut self.state {
            accelerator.set_own_subnets(&own.nets().collect::<Vec<_>>());
        }
    }

    /// See [`Accelerator::apply`].
    pub(super) fn apply(&mut self, peers: &[Peer], direct: &BTreeMap<IpNet, IpAddr>) -> Result<()> {
        match &mut self.state {
            State::Present(accelerator) => accelerator.apply(peers, direct),
            State::NotProbed | State::Absent(_) => Ok(()),
        }
    }

    /// See [`Accelerator::add_peers`].
    pub(super) fn add_peers(&mut self, joined: &[Peer]) -> Result<bool> {
        match &mut self.state {
            State::Present(accelerator) => accelerator.add_peers(joined),
            State::NotProbed | State::Absent(_) => Ok(true),
        }
    }

    /// See [`Accelerator::follow_pods`].
    pub(super) async fn follow_pods(&mut self, kernel: &Kernel) -> Vec<Error> {
        match &mut self.state {
            State::Present(accelerator) => accelerator.follow_pods(kernel).await,
            State::NotProbed | State::Absent(_) => Vec::new(),
        }
    }

    /// See [`Accelerator::changed`].
    pub(super) async fn changed(&mut self, kernel: &Kernel) -> AcceleratorEvent {
        match &mut self.state {
            State::Present(accelerator) => accelerator.changed(kernel).await,
            State::NotProbed | State::Absent(_) => pending().await,
        }
    }
}

fn accelerated<'a>(overlay: &'a Overlay, uplink: &'a Uplink) -> AcceleratedDevice<'a> {
    AcceleratedDevice { spec: overlay.spec(), actual: overlay.device(), uplink }
}
