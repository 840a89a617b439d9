//! Services: traffic of pods to addresses that the node translates by kube-proxy's rules.

mod affinity;
mod checksums;
mod endpoints;
mod listed;
mod near;
mod one_port;
mod ports;
mod rules;
mod settings;
pub(super) mod shortcut;
mod traced;

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use flannel_tests::kube_proxy::{KubeProxy, Mode, Service};
use flannel_tests::traffic::{Answer, At, Responder};
use flannel_tests::{Pod, Topology};

use super::ipv6::{BPF, DUAL, start};
use crate::inspect;
use crate::overlay::Overlay;

/// The port of services.
const PORT: u16 = 80;
/// The port of the servers in the pods.
const POD_PORT: u16 = 8080;
/// The pods' networks, as in [`DUAL`].
const NETWORKS: [&str; 2] = ["10.5.0.0/16", "fd44::/48"];
/// Sizes of requests: without data, odd and even, one that fills a packet but for the answer's first line, fragmented ones.
const SIZES: [usize; 8] = [0, 1, 8, 9, 1000, 1301, 2000, 9001];

/// Nodes with BPF and a pod each, in both address families.
struct Bed {
    overlay: Overlay,
}

impl Bed {
    fn new(nodes: usize) -> Result<Self> {
        Ok(Self { overlay: start(Topology::segment(nodes), DUAL, &vec![BPF; nodes])? })
    }

    /// Starts kube-proxy on every node.
    fn kube_proxies(&self, mode: Mode, masquerade_all: bool) -> Result<Proxies<'_>> {
        let nodes = self.overlay.nodes().iter();
        let proxies = nodes.map(|node| KubeProxy::start(node.netns(), mode, &NETWORKS, masquerade_all));
        Ok(Proxies(proxies.collect::<Result<_>>()?))
    }

    /// Returns a node's first pod at its address of this family.
    fn pod(&self, node: usize, family: Family) -> At<'_> {
        family.of(&self.overlay.pods[node][0])
    }

    /// Adds a pod to a node, and waits until its port has its programs.
    fn add_pod(&self, node: usize) -> Result<Pod> {
        let node = &self.overlay.nodes()[node];
        let pod = node.add_pod()?;
        inspect::wait_plugged(node, &pod)?;
        Ok(pod)
    }
}

/// The kube-proxies of all nodes.
struct Proxies<'a>(Vec<KubeProxy<'a>>);

impl Proxies<'_> {
    fn sync(&self, services: &[Service]) -> Result<()> {
        self.0.iter().try_for_each(|proxy| proxy.sync(services))
    }

    /// Writes the services without an endpoint that was removed, and removes its UDP connections.
    fn sync_without(&self, services: &[Service], removed: SocketAddr) -> Result<()> {
        self.sync(services)?;
        for (proxy, service) in
            self.0.iter().flat_map(|proxy| services.iter().map(move |service| (proxy, service)))
        {
            proxy.forget(service, removed)?;
        }
        Ok(())
    }

    fn remove(self) -> Result<()> {
        self.0.into_iter().try_for_each(KubeProxy::remove)
    }
}

/// An address family of pods and services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const BOTH: [Self; 2] = [Self::V4, Self::V6];

    fn of(self, pod: &Pod) -> At<'_> {
        At { netns: pod.netns(), ip: pod.addresses()[self as usize] }
    }

    /// Returns the address of the service with this number.
    fn service(self, number: u8) -> SocketAddr {
        let ip = match self {
            Self::V4 => [10, 96, 0, number].into(),
            Self::V6 => [0xfd96, 0, 0, 0, 0, 0, 0, u16::from(number)].into(),
        };
        SocketAddr::new(ip, PORT)
    }
}

/// Starts a server at the port that services lead to.
fn serve(pod: &At<'_>) -> Result<Responder> {
    Responder::start(pod, POD_PORT)
}

/// Fails unless this server has answered.
fn ensure_by(answer: Answer, server: &Responder) -> Result<()> {
    ensure!(answer.server == server.address(), "{} has answered, not {}", answer.server, server.address());
    Ok(())
}
