//! The shortcut for the backends whose packets have no tunnel: programs at the ports of pods and at the uplink. Routes alone carry
//! packets, the kernel's or a cloud's, and go on doing so where programs are not wanted or not possible.

use std::collections::BTreeMap;
use std::mem;
use std::net::IpAddr;

use anyhow::{Error, Result};
use ipnet::IpNet;
use tracing::warn;

use super::acceleration::Acceleration;
use super::route_mtus::RouteMtus;
use super::{Options, Setup};
use crate::config::{DataplaneMode, NetworkConfig, SourceCheck, XdpMode};
use crate::dataplane::accelerator::{AcceleratorEvent, Carrier, Settings};
use crate::dataplane::bpf::leases::Routes;
use crate::dataplane::bpf::pins::Pins;
use crate::dataplane::kernel::Kernel;
use crate::lease::SubnetKey;
use crate::peer::Peer;
use crate::uplink::Uplink;

/// The programs of a node whose packets have no tunnel, if it has them.
pub(super) struct Routed {
    uplink: Uplink,
    acceleration: Acceleration,
    route_mtus: RouteMtus,
    own: Option<SubnetKey>,
    due: Due,
}

/// What is to be done. Each step includes those before it.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    #[default]
    Nothing,
    /// Pods or other interfaces have come or gone.
    Interfaces,
    /// The MTU of a route to a peer's pods has changed.
    Peers,
    /// The programs were detached by another program.
    Attach,
}

impl Routed {
    /// Takes over what an earlier agent has attached. A node that insists on BPF takes no subnet without.
    pub(super) async fn start<C>(kernel: &Kernel, setup: &Setup<'_, C>) -> Result<Self> {
        let Setup { options, network, uplink, .. } = setup;
        let mut routed = Self {
            uplink: (*uplink).clone(),
            acceleration: Acceleration::new(settings(options, network)),
            route_mtus: RouteMtus::open(kernel, uplink.index)?,
            own: None,
            due: Due::Nothing,
        };
        if routed.acceleration.precedes_subnet() {
            routed.load(kernel).await?;
        }
        Ok(routed)
    }

    pub(super) const fn acceleration(&self) -> &Acceleration {
        &self.acceleration
    }

    pub(super) const fn acceleration_mut(&mut self) -> &mut Acceleration {
        &mut self.acceleration
    }

    /// Sets the node's own subnets.
    pub(super) async fn set_subnet(&mut self, kernel: &Kernel, own: SubnetKey) {
        self.own = Some(own);
        self.follow_own_subnets(kernel).await.iter().for_each(|error| warn!("{error:#}"));
    }

    /// Loads and attaches the programs, unless that was tried.
    pub(super) async fn accelerate(&mut self, kernel: &Kernel) -> Result<()> {
        if self.acceleration.is_probed() { Ok(()) } else { self.load(kernel).await }
    }

    /// Tells the programs of these peers. `direct`: the subnets that routes reach.
    pub(super) async fn apply(
        &mut self,
        kernel: &Kernel,
        peers: &[Peer],
        direct: &BTreeMap<IpNet, IpAddr>,
    ) -> Vec<Error> {
        if !self.acceleration.is_present() {
            return Vec::new();
        }
        let mut errors = Vec::new();
        let pods = peers.iter().map(|peer| peer.subnet.network());
        let by_subnet = self.route_mtus.read(kernel, pods).await.unwrap_or_else(|error| {
            errors.push(error);
            const { &BTreeMap::new() }
        });
        let mtu = |peer: &Peer| Some((peer.public_ip, *by_subnet.get(&peer.subnet.network())?));
        let mtus = peers.iter().filter_map(mtu).collect();
        errors.extend(self.acceleration.apply(peers, Routes { direct, mtus: &mtus }).err());
        errors
    }

    /// Attaches the programs again if others have detached them. [`Self::apply`] and [`Self::follow_interfaces`] are to be called then.
    pub(super) async fn repair(&mut self, kernel: &Kernel) -> Vec<Error> {
        if mem::take(&mut self.due) != Due::Attach {
            return Vec::new();
        }
        let mut errors: Vec<_> =
            self.acceleration.heal(&carriers(&self.uplink), kernel, true).await.err().into_iter().collect();
        errors.extend(self.follow_own_subnets(kernel).await);
        errors
    }

    /// Makes the ports of the pods that are there take the shortcut.
    pub(super) async fn follow_interfaces(&mut self, kernel: &Kernel) -> Vec<Error> {
        if self.due == Due::Interfaces {
            self.due = Due::Nothing;
        }
        self.acceleration.follow_interfaces(kernel).await
    }

    /// Waits until something is to be done. It may be dropped and called again; no change gets lost.
    pub(super) async fn changed(&mut self, kernel: &Kernel) {
        let Self { acceleration, route_mtus, due, .. } = self;
        let work = loop {
            tokio::select! {
                event = acceleration.changed(kernel) => match event {
                    AcceleratorEvent::Interfaces => break Due::Interfaces,
                    AcceleratorEvent::Detached => break Due::Attach,
                    // Which nodes there are does not depend on what pods send.
                    AcceleratorEvent::Packet(_) => {}
                },
                () = route_mtus.changed() => break Due::Peers,
            }
        };
        *due = work.max(*due);
    }

    /// Returns whether [`Self::repair`] and [`Self::apply`] are to be called, and not [`Self::follow_interfaces`] alone.
    pub(super) fn needs_peers(&self) -> bool {
        self.due > Due::Interfaces
    }

    async fn load(&mut self, kernel: &Kernel) -> Result<()> {
        self.acceleration.load(&carriers(&self.uplink), kernel).await?;
        self.follow_own_subnets(kernel).await.iter().for_each(|error| warn!("{error:#}"));
        Ok(())
    }

    /// Tells the programs of the own subnets, once there are any, and of the ports of the pods there.
    async fn follow_own_subnets(&mut self, kernel: &Kernel) -> Vec<Error> {
        let Some(own) = self.own else { return Vec::new() };
        self.acceleration.set_own_subnets(own);
        self.acceleration.follow_interfaces(kernel).await
    }
}

/// Returns what carries packets of each family: routes through the uplink.
fn carriers(uplink: &Uplink) -> Vec<Carrier<'_>> {
    let v4 = uplink.ipv4.iter().map(|address| address.local.into());
    let v6 = uplink.ipv6.iter().map(|address| address.local.into());
    v4.chain(v6).map(|local| Carrier { local, uplink, device: None }).collect()
}

/// Returns the accelerator's settings. The network configuration has none for these backends.
fn settings(options: &Options, network: &NetworkConfig) -> Settings {
    Settings {
        mode: options.dataplane.unwrap_or(DataplaneMode::Auto),
        flow_cache: options.flow_cache(true),
        max_flows: options.max_flows,
        direct_routing: true,
        // There are no outer headers, and no senders in them.
        xdp: XdpMode::Off,
        source_check: SourceCheck::Off,
        ranges: network.ranges().collect(),
        pins: Pins::new(&options.bpffs, Pins::routed(network.networks())),
        log_packets: options.log_packets,
    }
}
