//! alloc: takes a lease and writes the subnet file. Another program has to carry the packets.

use anyhow::Result;

use super::{Backend, Setup};
use crate::config::BackendType;
use crate::lease::{LeaseAttrs, SubnetKey};
use crate::peer::Peer;
use crate::uplink::Uplink;

/// A backend that configures nothing.
pub struct Alloc {
    uplink: Uplink,
    kind: BackendType,
}

impl Alloc {
    /// Returns the local part of a backend whose packets something else carries.
    pub(super) fn new(uplink: &Uplink, kind: BackendType) -> Self {
        Self { uplink: uplink.clone(), kind }
    }
}

impl Backend for Alloc {
    type Config = ();

    async fn start(setup: Setup<'_, ()>) -> Result<Self> {
        Ok(Self::new(setup.uplink, BackendType::Alloc))
    }

    fn attributes(&self) -> Result<LeaseAttrs> {
        Ok(super::attributes(self.kind, &self.uplink))
    }

    fn mtu(&self) -> u32 {
        self.uplink.mtu
    }

    fn name(&self) -> &'static str {
        self.kind.name()
    }

    async fn set_subnet(&mut self, _own: SubnetKey) -> Result<()> {
        Ok(())
    }

    async fn apply(&mut self, _peers: &[Peer]) -> Vec<anyhow::Error> {
        Vec::new()
    }

    async fn resync(&mut self, _peers: &[Peer]) -> Vec<anyhow::Error> {
        Vec::new()
    }

    async fn changed(&mut self) {
        std::future::pending::<()>().await;
    }

    async fn react(&mut self, _peers: &[Peer]) -> Vec<anyhow::Error> {
        Vec::new()
    }
}
