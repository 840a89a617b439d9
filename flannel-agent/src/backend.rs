//! How packets travel between nodes: one trait, one file for each of flannel's backends.

pub mod alloc;
mod direct;
pub mod host_gw;
pub mod udp;
pub mod vxlan;

use anyhow::Result;

use crate::cli::Flags;
use crate::config::{BackendType, NetworkConfig};
use crate::lease::{LeaseAttrs, SubnetKey};
use crate::peer::Peer;
use crate::uplink::Uplink;

/// A node's way to the others. What it needs in the kernel it adopts where an earlier run left it, and leaves
/// where it is when the value is dropped, except for what cannot outlive its process.
pub trait Backend: Sized {
    /// Its part of the network's configuration.
    type Config;

    /// Makes or adopts what it needs on an uplink, before a subnet is known.
    ///
    /// # Errors
    /// It cannot work here: privileges, names or ports that are taken, an uplink that does not fit.
    fn start(setup: Setup<'_, Self::Config>) -> impl Future<Output = Result<Self>>;

    /// What the others have to know of this node.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    fn attributes(&self) -> Result<LeaseAttrs>;

    /// The pods' MTU in bytes.
    fn mtu(&self) -> u32;

    /// What moves the packets, for people.
    fn name(&self) -> &'static str;

    /// Takes the node's own subnets, now or again.
    ///
    /// # Errors
    /// The kernel refuses.
    fn serve(&mut self, own: SubnetKey) -> impl Future<Output = Result<()>>;

    /// Makes it fast, once pods can be told of their subnet: what it is without carries them already.
    ///
    /// # Errors
    /// Speed was asked for that cannot be had.
    fn accelerate(&mut self) -> impl Future<Output = Result<()>> {
        std::future::ready(Ok(()))
    }

    /// Makes exactly these peers reachable. What fails is reported and tried again by [`Self::resync`]; the
    /// rest is done all the same.
    fn apply(&mut self, peers: &[Peer]) -> impl Future<Output = Vec<anyhow::Error>>;

    /// Reads what is really there and repairs it.
    fn resync(&mut self, peers: &[Peer]) -> impl Future<Output = Vec<anyhow::Error>>;

    /// Waits until something on this node asks for [`Self::react`]; dropped before, it misses nothing.
    fn changed(&mut self) -> impl Future<Output = ()>;

    /// Follows what [`Self::changed`] has seen.
    fn react(&mut self, peers: &[Peer]) -> impl Future<Output = Vec<anyhow::Error>>;

    /// Whether the kernel has asked for a peer that none of these is, and the datastore was not asked since. Once
    /// true, it is false until there is another such question.
    fn wants_peers(&mut self) -> bool {
        false
    }
}

/// What a backend is made from.
#[derive(Debug)]
pub struct Setup<'a, C> {
    /// What the administrator of this node asked for.
    pub flags: &'a Flags,
    /// What the cluster's asked for.
    pub network: &'a NetworkConfig,
    /// The backend's part of it.
    pub config: &'a C,
    /// The interface that carries packets to other nodes.
    pub uplink: &'a Uplink,
    /// What the others know of this node already, if it has moved to this uplink from another.
    pub known: Option<&'a LeaseAttrs>,
}

/// A lease of this backend type by this uplink, without a backend's data.
fn attributes(backend_type: BackendType, uplink: &Uplink) -> LeaseAttrs {
    LeaseAttrs {
        public_ip: uplink.ipv4.map(|ends| ends.public),
        public_ipv6: uplink.ipv6.map(|ends| ends.public),
        backend_type: backend_type.lease_type().to_owned(),
        backend_data: None,
        backend_v6_data: None,
    }
}
