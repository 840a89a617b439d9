//! Collects the facts about the node. Nothing waits longer than its time limit.

pub(super) mod files;
pub(super) mod kernel;
pub(super) mod network;

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::CheckNode;
use super::judge::host::Interfaces;
use super::judge::kernel::{BpffsFacts, KernelFacts};
use super::judge::others::{Daemon, ForeignProgram};
use crate::dataplane::kernel::{Kernel, bridge_of};
use crate::lease::LastKnown;
use crate::netfilter::reader;
use crate::netfilter::rules::Table;
use crate::netlink::address::ip_of;
use crate::netlink::link;
use crate::paths::Paths;
use crate::sole::holder;
use crate::status::agent::Agent;
use crate::status::collect;
use crate::status::model::NetworkStatus;
use files::FileFacts;
use network::{Host, Network};

/// Time limit for each source of facts.
const LIMIT: Duration = Duration::from_secs(4);

/// The facts about the node and its networks.
pub(super) struct Facts {
    pub(super) host: Host,
    pub(super) networks: Vec<Network>,
}

/// Facts that no network has alone.
#[derive(Clone, Debug)]
pub(super) struct NodeFacts {
    pub(super) kernel: KernelFacts,
    pub(super) bpffs: BpffsFacts,
    pub(super) files: FileFacts,
    /// By network: the agent's process and its capabilities, daemons, and programs of others.
    pub(super) by_network: Vec<Processes>,
}

/// Processes and programs that belong to a network.
#[derive(Clone, Debug)]
pub(super) struct Processes {
    /// The agent's process ID, and its capabilities.
    pub(super) agent: Option<(i32, u64)>,
    pub(super) daemons: Result<Vec<Daemon>, String>,
    pub(super) programs: Result<Vec<ForeignProgram>, String>,
}

impl Facts {
    /// Asks the agent and the kernel.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub(super) async fn collect(paths: &Paths) -> Result<Self> {
        timeout(LIMIT, Self::collect_slowly(paths)).await.context("the kernel does not answer in time")?
    }

    async fn collect_slowly(paths: &Paths) -> Result<Self> {
        let status = collect(paths).await?;
        let kernel = Kernel::new()?;
        let links = link::list(kernel.handle()).await.context("listing interfaces")?;
        let addresses: Vec<_> =
            kernel.handle().address().get().execute().try_collect().await.context("listing addresses")?;
        let mut networks = Vec::new();
        for status in status.networks {
            let file = Paths {
                subnet_file: status.subnet_file.clone().unwrap_or_else(|| paths.subnet_file.clone()),
                bpffs: paths.bpffs.clone(),
            };
            // What is wrong with it `status` says.
            let known = LastKnown::read_any(&file.last_known()).ok().flatten().map(|(known, _)| known);
            let mut network = Network { status, known, bridges: Vec::new() };
            for subnet in network.subnets() {
                let bridge = bridge_of(kernel.handle(), subnet).await?;
                network.bridges.extend(bridge.map(|link| (subnet, link)));
            }
            networks.push(network);
        }
        Ok(Self { host: Host { links, addresses: addresses.iter().filter_map(ip_of).collect() }, networks })
    }

    /// Reads files, and asks by calls that may block.
    ///
    /// # Errors
    /// They do not end in time.
    pub(super) async fn node(&self, options: &CheckNode) -> Result<NodeFacts> {
        let interfaces: Vec<_> =
            self.networks.iter().flat_map(|network| network.interfaces(&self.host)).collect();
        let mut families: Vec<_> = interfaces.iter().map(|family| family.v6).collect();
        families.sort_unstable();
        families.dedup();
        let settings: Vec<_> = interfaces.iter().flat_map(Interfaces::settings).collect();
        let networks: Vec<_> =
            self.networks.iter().map(|network| (network.status.clone(), network.links(&self.host))).collect();
        let CheckNode { paths, cni_conf_dir, .. } = options.clone();
        let work = spawn_blocking(move || NodeFacts {
            kernel: kernel::kernel(),
            bpffs: kernel::bpffs(&paths.bpffs),
            files: files::read(&settings, &families, &cni_conf_dir),
            by_network: networks
                .iter()
                .map(|(status, links)| Processes {
                    agent: pid(status).and_then(|pid| Some((pid, kernel::capabilities(pid)?))),
                    daemons: kernel::agents(&paths, status),
                    programs: kernel::foreign_programs(&paths.bpffs, links),
                })
                .collect(),
        });
        let facts = timeout(LIMIT, work).await.context("files of this node cannot be read in time")?;
        facts.context("reading the files of this node")
    }
}

/// Reads the rules of the packet filters; `Err`: why they are not known.
pub(super) async fn rules() -> Result<Vec<Table>, String> {
    match timeout(LIMIT, reader::read()).await {
        Ok(Ok(Some(tables))) => Ok(tables),
        Ok(Ok(None)) => Err("no tool lists the rules".to_owned()),
        Ok(Err(error)) => Err(format!("{:#}", anyhow::Error::from(error))),
        Err(_) => Err(format!("the rules cannot be listed within {} s", LIMIT.as_secs())),
    }
}

/// Returns the agent's process ID in this PID namespace.
fn pid(network: &NetworkStatus) -> Option<i32> {
    let pid = match &network.agent {
        Agent::Silent { pid: Some(pid), .. } => Some(*pid),
        Agent::Answers { .. } | Agent::Silent { pid: None, .. } => {
            network.network.as_deref().and_then(holder)
        }
        Agent::Absent | Agent::Closed { .. } => None,
    };
    pid.filter(|pid| *pid != 0)
}
