//! A running variant: two nodes and a pod on each.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use flannel_tests::cloud::gce::Project;
use flannel_tests::cloud::{self, Cloud as _};
use flannel_tests::firewall::firewall;
use flannel_tests::flowtable;
use flannel_tests::kernel_vxlan;
use flannel_tests::kube_proxy::{KubeProxy, Mode, Service};
use flannel_tests::traffic::{Behind, Host, Served};
use flannel_tests::{Agent, Cluster, Etcd, Node, Pod, eventually, traffic};

use super::crowd::{self, NETWORK};
use super::limit::{self, Limit};
use super::variant::{CROWD, Variant};
use crate::workspace::release_agent;

/// Limit until the pods reach each other. Among 50 000 leases an agent takes seconds to add its one real peer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The address of the service, outside the pods' networks.
const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(172, 20, 0, 10)), 80);
/// The port of the servers behind it.
const POD_PORT: u16 = 8080;

/// A variant and its guards, which are dropped in the order of the fields.
pub(super) struct Bed {
    pub(super) variant: Variant,
    pub(super) from: Pod,
    pub(super) to: Pod,
    service: Option<Served>,
    _limit: Vec<Limit>,
    _agents: Vec<Agent>,
    cloud: Option<Project>,
    _etcd: Option<Etcd>,
    cluster: Option<Cluster>,
}

impl Bed {
    /// Sets the variant up, and returns when the pods reach each other.
    pub(super) fn set_up(variant: Variant, before: Option<&Path>) -> Result<Self> {
        let mut bed = match variant {
            Variant::Veth => Self::cabled()?,
            Variant::Flowtable => Self::of_flowtable()?,
            Variant::Limit | Variant::LimitFlat => Self::of_smallest_programs(variant)?,
            Variant::HostGw => Self::of_kernel(variant, kernel_vxlan::host_gw)?,
            Variant::KernelVxlan | Variant::KernelVxlanService => {
                Self::of_kernel(variant, kernel_vxlan::vxlan)?
            }
            Variant::AgentBefore => {
                let program = before.context("agent-before needs --before PROGRAM")?;
                Self::of_agents(variant, program)?
            }
            Variant::AgentNetlink
            | Variant::AgentNoCache
            | Variant::AgentBpf
            | Variant::AgentService
            | Variant::AgentCrowd
            | Variant::AgentHostGw
            | Variant::Routed
            | Variant::AgentRouted => Self::of_agents(variant, &release_agent()?)?,
        };
        // An agent that is ready has its own subnet, but may not have the other node's yet.
        eventually("the pods reach each other", PATIENCE, || {
            bed.follow_cloud()?;
            traffic::ping(&bed.from, bed.to.ip())
        })?;
        if variant.direct().is_some() {
            bed.serve()?;
        }
        Ok(bed)
    }

    /// Returns the sending and the receiving node, if the variant has nodes.
    pub(super) fn nodes(&self) -> Option<[&Node; 2]> {
        match self.cluster.as_ref()?.nodes() {
            [sender, receiver] => Some([sender, receiver]),
            _ => None,
        }
    }

    /// Makes the second pod the only endpoint of a service, by kube-proxy's rules on both nodes.
    fn serve(&mut self) -> Result<()> {
        let network = match self.variant {
            Variant::KernelVxlanService => kernel_vxlan::NETWORK,
            _ => NETWORK,
        };
        let endpoint = (self.to.ip(), POD_PORT).into();
        let services = Service::both("bench", SERVICE, &[endpoint]);
        for node in self.nodes().context("a service needs nodes")? {
            KubeProxy::start(node.netns(), Mode::Iptables, &[&network.to_string()], false)?
                .sync(&services)?;
        }
        self.service = Some(Served { address: SERVICE, port: POD_PORT });
        Ok(())
    }

    /// Calls `measure` with the receiving end: the second pod, at its own address or behind its service.
    pub(super) fn with_receiver<T>(&self, measure: impl FnOnce(&dyn Host) -> T) -> T {
        match self.service {
            Some(service) => measure(&Behind { host: &self.to, service }),
            None => measure(&self.to),
        }
    }

    fn new(variant: Variant, (from, to): (Pod, Pod), cluster: Option<Cluster>) -> Self {
        Self {
            variant,
            from,
            to,
            service: None,
            _limit: Vec::new(),
            _agents: Vec::new(),
            cloud: None,
            _etcd: None,
            cluster,
        }
    }

    fn cabled() -> Result<Self> {
        Ok(Self::new(Variant::Veth, Pod::cabled_pair()?, None))
    }

    fn of_kernel(variant: Variant, join: impl FnOnce(&[Node]) -> Result<()>) -> Result<Self> {
        let cluster = Cluster::two_nodes()?;
        join(cluster.nodes())?;
        Ok(Self::new(variant, pods(&cluster)?, Some(cluster)))
    }

    fn of_smallest_programs(variant: Variant) -> Result<Self> {
        let bed = Self::of_kernel(variant, kernel_vxlan::vxlan)?;
        let nodes = bed.nodes().context("the programs need nodes")?;
        let limit = limit::attach(nodes, [&bed.from, &bed.to], variant == Variant::LimitFlat)?;
        Ok(Self { _limit: limit, ..bed })
    }

    fn of_flowtable() -> Result<Self> {
        let bed = Self::of_kernel(Variant::Flowtable, kernel_vxlan::vxlan)?;
        let nodes = bed.nodes().context("flowtables need nodes")?;
        for (node, pod) in nodes.into_iter().zip([&bed.from, &bed.to]) {
            flowtable::start(node, &[pod.port(), kernel_vxlan::DEVICE])?;
        }
        Ok(bed)
    }

    /// Starts agents: those of a crowd among the leases of nodes that do not exist, those of a cloud with its router between them.
    fn of_agents(variant: Variant, program: &Path) -> Result<Self> {
        let is_cloud = variant.backend() == "gce";
        let cluster = if is_cloud { Cluster::two_nodes_routed()? } else { Cluster::two_nodes()? };
        let cloud = is_cloud.then(|| Project::start(&cluster)).transpose()?;
        let etcd = cluster.start_etcd()?;
        let backend = variant.backend();
        etcd.configure(&format!(r#"{{"Network":"{NETWORK}","Backend":{{"Type":"{backend}"}}}}"#))?;
        if variant == Variant::AgentCrowd {
            crowd::fill(&etcd, crowd::Backend::Vxlan, CROWD)?;
        }
        let environment = cloud.as_ref().map(Project::environment);
        let agents = cluster.start_agents_with(&etcd, |agent| {
            let agent =
                environment.iter().fold(agent.program(program), |agent, (name, url)| agent.env(name, url));
            variant.flags().iter().fold(agent, |agent, flag| agent.arg(*flag))
        })?;
        for node in cluster.nodes() {
            let subnet = node.subnet_env()?.subnet.context("subnet.env has no FLANNEL_SUBNET")?;
            // The same rules as in the kernel variants, so that only the dataplane differs.
            firewall(node, &subnet.to_string(), &NETWORK.to_string())?;
        }
        let pods = pods(&cluster)?;
        let bed = Self::new(variant, pods, Some(cluster));
        Ok(Self { _agents: agents, cloud, _etcd: Some(etcd), ..bed })
    }

    /// Gives the router between the nodes the routes that their agents have written, if there is one.
    fn follow_cloud(&self) -> Result<()> {
        match (&self.cluster, &self.cloud) {
            (Some(cluster), Some(cloud)) => cloud::program(cluster, cloud),
            _ => Ok(()),
        }
    }
}

fn pods(cluster: &Cluster) -> Result<(Pod, Pod)> {
    let mut pods = cluster.one_pod_each()?.into_iter();
    match (pods.next(), pods.next()) {
        (Some(from), Some(to)) => Ok((from, to)),
        _ => bail!("the cluster has fewer than two pods"),
    }
}
