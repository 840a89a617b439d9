//! How packets travel between nodes: one trait, one file for each of flannel's backends.

mod acceleration;
#[cfg(feature = "ali-vpc")]
mod ali_vpc;
pub mod alloc;
#[cfg(feature = "aws-vpc")]
mod aws_vpc;
#[cfg(feature = "cloud")]
pub mod cloud;
mod direct;
#[cfg(feature = "gce")]
mod gce;
pub mod host_gw;
mod route_mtus;
mod routed;
pub mod udp;
pub mod vxlan;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::config::{self, BackendType, DataplaneMode, NetworkConfig, XdpMode};
use crate::dataplane::accelerator::FlowCache;
use crate::dataplane::bpf::pins::Pins;
use crate::dataplane::kernel::Kernel;
use crate::lease::{LeaseAttrs, SubnetKey};
use crate::peer::Peer;
use crate::report::SlowPort;
use crate::uplink::Uplink;
use acceleration::Acceleration;

/// A node's connection to the other nodes. In the kernel it adopts what an earlier run left, and leaves it in place when
/// the value is dropped, except for what cannot outlive its process.
pub trait Backend: Sized {
    /// The backend's part of the network configuration.
    type Config;

    /// Makes or adopts what it needs on an uplink, before a subnet is known.
    ///
    /// # Errors
    /// It cannot work here: no privilege, a name or port that is taken, an uplink that does not fit.
    fn start(setup: Setup<'_, Self::Config>) -> impl Future<Output = Result<Self>>;

    /// Returns what other nodes need to know of this one.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    fn attributes(&self) -> Result<LeaseAttrs>;

    /// Returns the pods' MTU in bytes.
    fn mtu(&self) -> u32;

    /// Returns what moves the packets, for logs and metrics.
    fn name(&self) -> &'static str;

    /// Returns the BPF programs of this backend, wanted or not; `None` if it has none.
    fn acceleration(&self) -> Option<&Acceleration> {
        None
    }

    /// Returns the same to be changed, and the kernel that they are attached in.
    fn acceleration_mut(&mut self) -> Option<(&mut Acceleration, &Kernel)> {
        None
    }

    /// Returns why it does not carry packets as fast as it was asked to; `None` if it does. It is logged already.
    fn shortcoming(&self) -> Option<String> {
        self.acceleration()?.shortcoming()
    }

    /// Returns why BPF does not carry packets; `None` if it does.
    fn without_bpf(&self) -> Option<String> {
        let none = || Some(format!("the backend {} has no BPF programs", self.name()));
        self.acceleration().map_or_else(none, Acceleration::absence)
    }

    /// Returns the ports of pods whose flows all pass the host stack, and why. They are logged already.
    fn slow_ports(&self) -> Vec<SlowPort> {
        self.acceleration().map_or_else(Vec::new, Acceleration::slow_ports)
    }

    /// Sets the node's own subnets. May be called again, with the same or with others.
    ///
    /// # Errors
    /// The kernel refuses.
    fn set_subnet(&mut self, own: SubnetKey) -> impl Future<Output = Result<()>>;

    /// Adds acceleration, once the subnet file is written: packets are carried without it already. Has no effect the
    /// second time.
    ///
    /// # Errors
    /// Acceleration is mandatory, and not available.
    fn accelerate(&mut self) -> impl Future<Output = Result<()>> {
        std::future::ready(Ok(()))
    }

    /// Returns whether [`Self::accelerate_more`] has something to do.
    fn is_accelerating(&self) -> bool {
        self.acceleration().is_some_and(Acceleration::has_waiting)
    }

    /// Does the next step of what makes packets of some pods faster, which takes a while for each. Nothing waits for it. Returns what
    /// failed, which [`Self::resync`] repeats.
    fn accelerate_more(&mut self) -> impl Future<Output = Vec<anyhow::Error>> {
        async {
            match self.acceleration_mut() {
                Some((acceleration, kernel)) => acceleration.attach_next(kernel).await,
                None => Vec::new(),
            }
        }
    }

    /// Makes exactly these peers reachable. Returns what failed, which [`Self::resync`] repeats; the rest is done.
    fn apply(&mut self, peers: &[Peer]) -> impl Future<Output = Vec<anyhow::Error>>;

    /// Reads the real state and repairs it.
    fn resync(&mut self, peers: &[Peer]) -> impl Future<Output = Vec<anyhow::Error>>;

    /// Waits until [`Self::react`] is to be called. The future may be dropped and made again; no event gets lost.
    fn changed(&mut self) -> impl Future<Output = ()>;

    /// Reacts to what [`Self::changed`] has seen.
    fn react(&mut self, peers: &[Peer]) -> impl Future<Output = Vec<anyhow::Error>>;

    /// Returns whether packets wait for a peer that is not known. The datastore is then to be asked for all leases, and
    /// [`Self::settle_questions`] called after that. Returns each such question once.
    fn wants_peers(&mut self) -> bool {
        false
    }

    /// Answers what [`Self::wants_peers`] has reported, now that the datastore's peers are applied.
    fn settle_questions(&mut self) -> impl Future<Output = Vec<anyhow::Error>> {
        std::future::ready(Vec::new())
    }
}

/// What a backend is made from.
#[derive(Debug)]
pub struct Setup<'a, C> {
    /// This node's options.
    pub options: &'a Options,
    /// The network configuration.
    pub network: &'a NetworkConfig,
    /// The backend's part of it.
    pub config: &'a C,
    /// The interface that carries packets to other nodes.
    pub uplink: &'a Uplink,
    /// What other nodes know of this one already, if it has moved to this uplink from another.
    pub known: Option<&'a LeaseAttrs>,
}

/// What a node decides for itself. `None` leaves it to the network configuration.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What moves packets.
    pub dataplane: Option<DataplaneMode>,
    /// Whether flows that the host stack lets through unchanged skip it.
    pub flow_cache: Option<bool>,
    /// How many flows of one address family may skip the host stack at a time.
    pub max_flows: u32,
    /// Where outer headers are taken off.
    pub xdp: Option<XdpMode>,
    /// The BPF filesystem.
    pub bpffs: PathBuf,
    /// Whether BPF programs log every packet.
    pub log_packets: bool,
    /// Period of comparing a cloud's routes with the wanted ones.
    pub cloud_resync: Duration,
}

impl Options {
    /// Returns how flows skip the host stack; `configured`: whether they do where the node does not decide.
    fn flow_cache(&self, configured: bool) -> FlowCache {
        match self.flow_cache {
            Some(true) => FlowCache::Forced,
            None if configured => FlowCache::On,
            _ => FlowCache::Off,
        }
    }
}

/// Returns the number of a network's programs ([`Pins::new`]); `None` if its backend has none.
pub(crate) fn programs(network: &NetworkConfig) -> Option<u32> {
    match &network.backend {
        config::Backend::Vxlan(vxlan) => Some(vxlan.vni),
        other => other.kind().has_programs().then(|| Pins::routed(network.networks())),
    }
}

/// Returns a lease of this backend type by this uplink, without a backend's data.
fn attributes(backend_type: BackendType, uplink: &Uplink) -> LeaseAttrs {
    LeaseAttrs {
        public_ip: uplink.ipv4.map(|address| address.public),
        public_ipv6: uplink.ipv6.map(|address| address.public),
        backend_type: backend_type.lease_type().to_owned(),
        backend_data: None,
        backend_v6_data: None,
    }
}
