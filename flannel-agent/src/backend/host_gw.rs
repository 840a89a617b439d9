//! host-gw: adds a route to each peer's subnet through the peer, which has to be on the uplink's link.

use std::collections::BTreeSet;
use std::fmt::Display;

use anyhow::{Result, bail};
use ipnet::IpNet;
use tracing::warn;

use super::direct::Direct;
use super::{Backend, Setup};
use crate::config::{BackendType, SubnetRange};
use crate::dataplane::kernel::Kernel;
use crate::lease::{LeaseAttrs, SubnetKey};
use crate::peer::Peer;
use crate::uplink::{NodeAddress, Uplink};

/// The host-gw backend of this node.
pub struct HostGw {
    kernel: Kernel,
    ranges: Vec<SubnetRange>,
    direct: Direct,
    uplink: Uplink,
    /// Subnets of the peers that were unreachable at the last check, so that each is logged once.
    unreachable: BTreeSet<IpNet>,
}

impl Backend for HostGw {
    type Config = ();

    async fn start(Setup { network, uplink, .. }: Setup<'_, ()>) -> Result<Self> {
        uplink.ipv4.as_ref().map_or(Ok(()), ensure_not_translated)?;
        uplink.ipv6.as_ref().map_or(Ok(()), ensure_not_translated)?;
        let kernel = Kernel::new()?;
        let direct = Direct::start(&kernel, uplink, network, true).await?;
        Ok(Self {
            kernel,
            ranges: network.ranges().collect(),
            direct,
            uplink: uplink.clone(),
            unreachable: BTreeSet::new(),
        })
    }

    fn attributes(&self) -> Result<LeaseAttrs> {
        Ok(super::attributes(BackendType::HostGw, &self.uplink))
    }

    fn mtu(&self) -> u32 {
        self.uplink.mtu
    }

    fn name(&self) -> &'static str {
        BackendType::HostGw.name()
    }

    async fn set_subnet(&mut self, _own: SubnetKey) -> Result<()> {
        for range in &self.ranges {
            self.kernel.ensure_unreachable(range).await?;
        }
        Ok(())
    }

    async fn apply(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        let (ways, mut errors) = self.direct.ways(&self.kernel, peers).await;
        errors.extend(self.direct.add(&self.kernel, &ways).await);
        errors.extend(self.direct.remove(&self.kernel, &ways).await);
        self.warn_unreachable(&ways.tunnelled);
        errors
    }

    async fn resync(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        match self.direct.read(&self.kernel).await {
            Ok(()) => self.apply(peers).await,
            Err(error) => vec![error],
        }
    }

    async fn changed(&mut self) {
        self.direct.changed().await;
    }

    async fn react(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        self.resync(peers).await
    }
}

impl HostGw {
    /// Logs each peer once that is not on the uplink's link.
    fn warn_unreachable(&mut self, peers: &[Peer]) {
        for Peer { subnet, public_ip, .. } in peers {
            if !self.unreachable.contains(subnet) {
                warn!(
                    "the pods of {public_ip} ({subnet}) cannot be reached: host-gw needs nodes on the link of {}, \
                     and the route to this node leads to another link or through a router; use the backend vxlan",
                    self.uplink.name
                );
            }
        }
        self.unreachable = peers.iter().map(|peer| peer.subnet).collect();
    }
}

/// Checks that the public address is the uplink's own: peers route to it, so it has to belong to this node.
fn ensure_not_translated<A: Display + PartialEq>(address: &NodeAddress<A>) -> Result<()> {
    let NodeAddress { local, public } = address;
    if local != public {
        bail!(
            "the public IP {public} is not the uplink's address {local}; host-gw does not work through NAT, vxlan does"
        );
    }
    Ok(())
}
