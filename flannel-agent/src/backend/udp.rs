//! udp: the agent itself carries packets between a TUN device and a UDP socket, one packet in each datagram. For kernels
//! without vxlan on underlays that host-gw cannot use; every other backend is faster.

mod nodes;
mod packet;
mod proxy;
mod tun;

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use nix::net::if_::if_nametoindex;
use tokio::sync::Notify;

use super::{Backend, Setup};
use crate::config::{BackendType, SubnetRange, UdpConfig};
use crate::dataplane::kernel::Kernel;
use crate::lease::{LeaseAttrs, SubnetKey};
use crate::peer::Peer;
use crate::uplink::Uplink;
use nodes::Nodes;
use proxy::Proxy;

/// Bytes that the tunnel adds to a packet: outer IPv4 and UDP headers.
const ENCAPSULATION: u32 = 28;

/// The udp backend of this node. Tunnel and TUN device exist only while the agent runs.
pub struct Udp {
    kernel: Kernel,
    uplink: Uplink,
    /// Source address of the datagrams.
    local: Ipv4Addr,
    port: u16,
    /// What is routed into the tunnel, whether it is leased or not.
    routes: Vec<IpNet>,
    tunnel: Option<Tunnel>,
    /// Base address of the node's subnet, once it has one.
    own: Option<Ipv4Addr>,
    /// Notified when a thread of the proxy has failed.
    failed: Arc<Notify>,
}

struct Tunnel {
    index: u32,
    proxy: Proxy,
}

impl Backend for Udp {
    type Config = UdpConfig;

    async fn start(Setup { network, config, uplink, .. }: Setup<'_, UdpConfig>) -> Result<Self> {
        let local = uplink.ipv4.context("the udp backend carries IPv4 only")?.local;
        let range = network.ipv4.context("the udp backend carries IPv4 only, and the network has none")?;
        let (kernel, failed) = (Kernel::new()?, Arc::new(Notify::new()));
        let mut udp = Self {
            kernel,
            uplink: uplink.clone(),
            local,
            port: config.port,
            routes: routes(&range, local),
            tunnel: None,
            own: None,
            failed,
        };
        udp.open().await?;
        Ok(udp)
    }

    fn attributes(&self) -> Result<LeaseAttrs> {
        Ok(super::attributes(BackendType::Udp, &self.uplink))
    }

    fn mtu(&self) -> u32 {
        self.uplink.mtu.saturating_sub(ENCAPSULATION)
    }

    fn name(&self) -> &'static str {
        BackendType::Udp.name()
    }

    async fn set_subnet(&mut self, own: SubnetKey) -> Result<()> {
        let subnet = own.v4.with_context(|| format!("the lease {own} has no IPv4 subnet"))?;
        self.own = Some(subnet.network());
        self.configure_device().await
    }

    async fn apply(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        let Some(tunnel) = &self.tunnel else { return Vec::new() };
        tunnel.proxy.set_nodes(Nodes::new(peers, self.port));
        let mut errors = Vec::new();
        // A reserved subnet may lie outside.
        let is_outside = |subnet: &IpNet| !self.routes.iter().any(|prefix| prefix.contains(subnet));
        for subnet in peers.iter().map(|peer| peer.subnet).filter(is_outside) {
            errors.extend(self.kernel.ensure_route(tunnel.index, subnet).await.err());
        }
        errors
    }

    async fn resync(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        if self.configure_device().await.is_ok() {
            return self.apply(peers).await;
        }
        // The device was deleted.
        self.react(peers).await
    }

    async fn changed(&mut self) {
        self.failed.notified().await;
    }

    /// Opens the tunnel again.
    async fn react(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        self.tunnel = None;
        if let Err(error) = self.open().await {
            return vec![error];
        }
        let mut errors = self.apply(peers).await;
        errors.extend(self.configure_device().await.err());
        errors
    }
}

impl Udp {
    /// Opens device and socket and starts the threads that carry packets between them.
    async fn open(&mut self) -> Result<()> {
        let tun = tun::open()?;
        let index = if_nametoindex(tun::NAME).with_context(|| format!("looking up {}", tun::NAME))?;
        let address = (self.local, self.port);
        let socket = UdpSocket::bind(address).with_context(|| {
            format!(
                "binding UDP port {} of {} for the tunnel (`ss -ulnp` shows which process uses it)",
                self.port, self.local
            )
        })?;
        // Before the threads start: a device that is down loses what is written to it.
        self.kernel.set_up(index, self.mtu()).await?;
        let proxy = Proxy::start(tun, socket, Arc::clone(&self.failed))?;
        self.tunnel = Some(Tunnel { index, proxy });
        Ok(())
    }

    /// Sets the device up and adds MTU, address and route where they are missing.
    async fn configure_device(&self) -> Result<()> {
        let (tunnel, own) = self.tunnel.as_ref().zip(self.own).context("there is no tunnel")?;
        self.kernel.set_up(tunnel.index, self.mtu()).await?;
        self.kernel.ensure_address(tunnel.index, IpNet::from(IpAddr::V4(own))).await?;
        for route in &self.routes {
            self.kernel.ensure_route(tunnel.index, *route).await?;
        }
        Ok(())
    }
}

/// Returns what is routed into the tunnel: the network, as with flanneld. A node with an address in it, outside the subnets,
/// reaches other nodes there only if the tunnel has no more than the subnets.
fn routes(range: &SubnetRange, node: Ipv4Addr) -> Vec<IpNet> {
    if range.network.contains(&IpAddr::V4(node)) { range.prefixes() } else { vec![range.network] }
}
