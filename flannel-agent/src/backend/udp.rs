//! udp: the agent itself carries packets, each as it is in a UDP datagram, by way of a TUN device. For kernels
//! without vxlan and underlays without routes; everything else is faster.

mod nodes;
mod packet;
mod proxy;
mod tun;

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use ipnet::{IpNet, Ipv4Net};
use nix::net::if_::if_nametoindex;
use tokio::sync::Notify;

use super::{Backend, Setup};
use crate::config::{BackendType, UdpConfig};
use crate::dataplane::kernel::Kernel;
use crate::lease::{LeaseAttrs, SubnetKey};
use crate::peer::Peer;
use crate::uplink::Uplink;
use nodes::Nodes;
use proxy::Proxy;

/// Bytes that the tunnel adds to a packet: outer IPv4 and UDP headers.
const ENCAPSULATION: u32 = 28;

/// The tunnel of this node. It ends with the agent, and its device with it.
pub struct Udp {
    kernel: Kernel,
    uplink: Uplink,
    /// Source of the datagrams.
    local: Ipv4Addr,
    port: u16,
    network: Ipv4Net,
    tunnel: Option<Tunnel>,
    /// The base address of our subnet, once we have one.
    own: Option<Ipv4Addr>,
    broken: Arc<Notify>,
}

struct Tunnel {
    index: u32,
    proxy: Proxy,
}

impl Backend for Udp {
    type Config = UdpConfig;

    async fn start(Setup { network, config, uplink, .. }: Setup<'_, UdpConfig>) -> Result<Self> {
        let local = uplink.ipv4.context("the udp backend carries IPv4 only")?.local;
        let network = match network.ipv4.map(|range| range.network) {
            Some(IpNet::V4(network)) => network,
            _ => bail!("the udp backend carries IPv4 only, and the network has none"),
        };
        let (kernel, broken) = (Kernel::new()?, Arc::new(Notify::new()));
        let mut udp = Self {
            kernel,
            uplink: uplink.clone(),
            local,
            port: config.port,
            network,
            tunnel: None,
            own: None,
            broken,
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

    async fn serve(&mut self, own: SubnetKey) -> Result<()> {
        let subnet = own.v4.with_context(|| format!("the lease {own} has no IPv4 subnet"))?;
        self.own = Some(subnet.network());
        self.dress().await
    }

    async fn apply(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        if let Some(tunnel) = &self.tunnel {
            tunnel.proxy.set_nodes(Nodes::new(peers, self.port));
        }
        Vec::new()
    }

    async fn resync(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        if self.dress().await.is_ok() {
            return self.apply(peers).await;
        }
        // Somebody has deleted the device.
        self.react(peers).await
    }

    async fn changed(&mut self) {
        self.broken.notified().await;
    }

    /// Makes the tunnel anew.
    async fn react(&mut self, peers: &[Peer]) -> Vec<anyhow::Error> {
        self.tunnel = None;
        if let Err(error) = self.open().await {
            return vec![error];
        }
        let mut errors = self.apply(peers).await;
        errors.extend(self.dress().await.err());
        errors
    }
}

impl Udp {
    /// Makes device and socket and lets packets through, as far as there are peers.
    async fn open(&mut self) -> Result<()> {
        let tun = tun::open()?;
        let index = if_nametoindex(tun::NAME).with_context(|| format!("looking up {}", tun::NAME))?;
        let address = (self.local, self.port);
        let socket = UdpSocket::bind(address).with_context(|| {
            format!(
                "taking UDP port {} of {} for the tunnel (`ss -ulnp` shows who has it)",
                self.port, self.local
            )
        })?;
        // Before packets come: what is written to a device that is down is lost.
        self.kernel.set_up(index, self.mtu()).await?;
        let proxy = Proxy::start(tun, socket, Arc::clone(&self.broken))?;
        self.tunnel = Some(Tunnel { index, proxy });
        Ok(())
    }

    /// Gives the device MTU, address and route, where they are missing.
    async fn dress(&self) -> Result<()> {
        let (tunnel, own) = self.tunnel.as_ref().zip(self.own).context("there is no tunnel")?;
        self.kernel.set_up(tunnel.index, self.mtu()).await?;
        self.kernel.ensure_address(tunnel.index, IpNet::from(IpAddr::V4(own))).await?;
        self.kernel.ensure_network_route(tunnel.index, self.network).await
    }
}
