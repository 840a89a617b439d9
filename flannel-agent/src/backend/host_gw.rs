//! host-gw: adds a route to each peer's subnet through the peer, which has to be on the uplink's link.

use std::collections::BTreeSet;
use std::fmt::Display;

use anyhow::{Result, bail};
use ipnet::IpNet;
use tracing::warn;

use super::acceleration::Acceleration;
use super::direct::Direct;
use super::routed::Routed;
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
    /// Whether the way to a peer may have changed, or a direct route is gone.
    is_rerouted: bool,
    routed: Routed,
    uplink: Uplink,
    /// Subnets of the peers that were unreachable at the last check, so that each is logged once.
    unreachable: BTreeSet<IpNet>,
}

impl Backend for HostGw {
    type Config = ();

    async fn start(setup: Setup<'_, ()>) -> Result<Self> {
        let Setup { network, uplink, .. } = setup;
        uplink.ipv4.as_ref().map_or(Ok(()), ensure_not_translated)?;
        uplink.ipv6.as_ref().map_or(Ok(()), ensure_not_translated)?;
        let kernel = Kernel::new()?;
        let direct = Direct::start(&kernel, uplink, network, true).await?;
        let routed = Routed::start(&kernel, &setup).await?;
        Ok(Self {
            kernel,
            ranges: network.ranges().collect(),
            direct,
            is_rerouted: false,
            routed,
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

    fn acceleration(&self) -> Option<&Acceleration> {
        Some(self.routed.acceleration())
    }

    fn acceleration_mut(&mut self) -> Option<(&mut Acceleration, &Kernel)> {
        Some((self.routed.acceleration_mut(), &self.kernel))
    }

    async fn set_subnet(&mut self, own: SubnetKey) -> Result<()> {
        for range in &self.ranges {
            self.kernel.ensure_unreachable(range).await?;
        }
        self.routed.set_subnet(&self.kernel, own).await;
        Ok(())
    }

    async fn accelerate(&mut self) -> Result<()> {
        self.routed.accelerate(&self.kernel).await
    }

    async fn apply(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        let (ways, mut errors) = self.direct.ways(&self.kernel, peers).await;
        errors.extend(self.direct.add(&self.kernel, &ways).await);
        errors.extend(self.routed.apply(&self.kernel, peers, &ways.direct).await);
        errors.extend(self.direct.remove(&self.kernel, &ways).await);
        self.warn_unreachable(&ways.tunnelled);
        errors
    }

    async fn resync(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        self.is_rerouted = false;
        let mut errors = self.routed.repair(&self.kernel).await;
        match self.direct.read(&self.kernel).await {
            Ok(()) => errors.extend(self.apply(peers).await),
            Err(error) => errors.push(error),
        }
        errors.extend(self.routed.follow_interfaces(&self.kernel).await);
        errors
    }

    async fn changed(&mut self) {
        let Self { kernel, direct, is_rerouted, routed, .. } = self;
        tokio::select! {
            () = direct.changed() => *is_rerouted = true,
            () = routed.changed(kernel) => {}
        }
    }

    async fn react(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        if self.is_rerouted || self.routed.needs_peers() {
            self.resync(peers).await
        } else {
            self.routed.follow_interfaces(&self.kernel).await
        }
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
