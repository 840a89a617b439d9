//! Puts the state of a node together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use flannel_common::node::NodeConfig;
use flannel_common::outcome::Hook;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;

use super::agent::Agent;
use super::model::{Device, NetworkStatus, ProgramStatus, Role, SCHEMA, State, Status, Traffic, Way};
use super::peers::Ways;
use super::sources::{Sources, find};
use crate::config::BackendType;
use crate::dataplane::bpf::inspect::{Attachments, Inspection};
use crate::dataplane::kernel::Kernel;
use crate::netlink::link::{self, Link};
use crate::netlink::route::{Hop, next_hops};
use crate::paths::Paths;
use crate::report::Carrying;
use crate::subnet_file::{parse_mtu, parse_networks};

/// What the kernel of this network namespace has.
struct Tables {
    links: Vec<Link>,
    hops: BTreeMap<IpNet, Hop>,
}

/// Reads everything.
///
/// # Errors
/// The kernel does not answer.
pub(crate) async fn collect(paths: &Paths) -> Result<Status> {
    let kernel = Kernel::new()?;
    let links = link::list(kernel.handle()).await.context("listing interfaces")?;
    let mut hops = BTreeMap::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        hops.append(&mut next_hops(kernel.handle(), family).await.context("listing routes")?);
    }
    let tables = Tables { links, hops };
    let networks = find(paths, &kernel).await.into_iter();
    let networks: Vec<_> = networks.map(|sources| tables.status(sources).judged()).collect();
    let state = networks.iter().map(|network| network.state).max().unwrap_or(State::NotWorking);
    Ok(Status { schema: SCHEMA, state, networks })
}

impl Tables {
    fn status(&self, sources: Sources) -> NetworkStatus {
        let subnets = sources.subnets();
        let backend = sources.backend();
        let devices = if backend == Some(BackendType::Vxlan.name()) {
            self.devices(&sources, &subnets)
        } else {
            Vec::new()
        };
        let (network, datastore) = (sources.network(), sources.datastore());
        let Sources { file, env, known, agent, overlay, unread, .. } = sources;
        let has_programs = overlay.as_ref().is_some_and(is_attached);
        let carrying = agent.carrying();
        let dataplane = match carrying {
            Some(carrying) => Some(carrying.dataplane.clone()),
            None if has_programs => Some("bpf".to_owned()),
            None => backend.map(|backend| if backend == "vxlan" { "netlink" } else { backend }.to_owned()),
        };
        let without_bpf = match carrying {
            Some(carrying) => carrying.without_bpf.clone(),
            // It waits for its configuration, or for the datastore.
            None if has_programs || matches!(agent, Agent::Answers { .. }) => None,
            None => Some("only the agent knows".to_owned()),
        };
        let ways = Ways {
            only: match backend {
                Some("udp") => Some(Way::Udp),
                Some("aws-vpc" | "gce" | "ali-vpc") => Some(Way::Cloud),
                Some("alloc") => Some(Way::Other),
                _ => None,
            },
            hops: &self.hops,
            overlays: self
                .links
                .iter()
                .filter(|link| link.vxlan().is_some())
                .map(|link| link.index)
                .collect(),
            held: overlay.as_ref().filter(|_| has_programs).map(|overlay| &overlay.leases),
        };
        let known = known.map(|(known, _)| known.peers_but(|subnet| ways.is_in_maps(subnet)));
        let peers = ways.peers(known.unwrap_or_default());
        NetworkStatus {
            network,
            backend: backend.map(str::to_owned),
            dataplane,
            without_bpf,
            subnet_file: file,
            prefixes: parse_networks(&env).iter().map(ToString::to_string).collect(),
            subnets: subnets.iter().map(ToString::to_string).collect(),
            mtu: parse_mtu(&env),
            datastore,
            agent,
            devices,
            peers,
            programs: self.programs(overlay.as_ref()),
            fast_ports: overlay.as_ref().map_or(0, |overlay| overlay.ports.len()),
            traffic: overlay.as_ref().map(|overlay| Traffic::of(&overlay.counters)),
            unread,
            ..NetworkStatus::default()
        }
    }

    /// Returns the vxlan devices that these subnets need, and their uplinks.
    fn devices(&self, Sources { vni, overlay, .. }: &Sources, subnets: &[IpNet]) -> Vec<Device> {
        let mut devices = Vec::new();
        let mut uplinks = BTreeMap::<u32, Option<IpAddr>>::new();
        for subnet in subnets {
            let Some(vni) = vni else { continue };
            let v6 = subnet.addr().is_ipv6();
            let name = format!("{}.{vni}", if v6 { "flannel-v6" } else { "flannel" });
            let link = self.links.iter().find(|link| link.name == name);
            let vxlan = link.and_then(Link::vxlan);
            match (vxlan, overlay) {
                (Some(vxlan), _) => drop(uplinks.entry(vxlan.uplink_index).or_insert(vxlan.local)),
                (None, Some(overlay)) => drop(uplinks.entry(uplink(&overlay.node, v6)).or_insert(None)),
                (None, None) => {}
            }
            devices.push(device(Role::Overlay, name, link.filter(|_| vxlan.is_some()), None));
        }
        for (index, address) in uplinks {
            let link = self.links.iter().find(|link| link.index == index);
            devices.push(device(Role::Uplink, self.name(index), link, address));
        }
        devices
    }

    fn programs(&self, overlay: Option<&Inspection>) -> Vec<ProgramStatus> {
        let names = |indexes: &BTreeSet<u32>| indexes.iter().map(|index| self.name(*index)).collect();
        let program = |Attachments { hook, attached, missing, runs }: &Attachments| ProgramStatus {
            program: hook.program(),
            interfaces: names(attached),
            missing: names(missing),
            of_ports: matches!(hook, Hook::PodEgress | Hook::PodIngress),
            runs: runs.map(|runs| runs.count),
            nanoseconds_a_run: runs.and_then(|runs| runs.nanoseconds.checked_div(runs.count)),
        };
        overlay.iter().flat_map(|overlay| &overlay.programs).map(program).collect()
    }

    fn name(&self, index: u32) -> String {
        let link = self.links.iter().find(|link| link.index == index);
        link.map_or_else(|| format!("interface {index}"), |link| link.name.clone())
    }
}

fn device(role: Role, name: String, link: Option<&Link>, address: Option<IpAddr>) -> Device {
    let (up, mtu) = link.map_or((false, 0), |link| (link.up, link.mtu));
    Device { role, name, present: link.is_some(), up, mtu, address }
}

const fn uplink(NodeConfig { v4, v6, .. }: &NodeConfig, is_v6: bool) -> u32 {
    if is_v6 { v6.uplink_ifindex } else { v4.uplink_ifindex }
}

/// Returns whether packets to peers meet the programs.
fn is_attached(overlay: &Inspection) -> bool {
    let egress = overlay.programs.iter().find(|program| program.hook == Hook::OverlayEgress);
    egress.is_some_and(|program| !program.attached.is_empty())
}

impl Sources {
    /// Returns the backend's name.
    fn backend(&self) -> Option<&'static str> {
        let known = || self.known.as_ref().map(|(known, _)| known.network.backend.kind().name());
        let said = self.agent.network().and_then(|name| name.split(' ').next());
        let said = said.and_then(|said| {
            BackendType::value_variants().iter().map(|kind| kind.name()).find(|name| *name == said)
        });
        said.or_else(known).or(self.vni.map(|_| BackendType::Vxlan.name()))
    }
}

impl Agent {
    /// Returns how packets are carried, as the agent says it.
    pub(super) fn carrying(&self) -> Option<&Carrying> {
        match self {
            Self::Answers { report } => report.carrying.as_ref(),
            Self::Silent { .. } | Self::Absent | Self::Closed { .. } => None,
        }
    }

    /// Returns the network's name, as the agent says it.
    pub(super) fn network(&self) -> Option<&String> {
        match self {
            Self::Answers { report } => report.network.as_ref(),
            Self::Silent { .. } | Self::Absent | Self::Closed { .. } => None,
        }
    }

    /// Returns the datastore, as the agent says it.
    pub(super) fn datastore(&self) -> Option<&String> {
        match self {
            Self::Answers { report } => Some(&report.datastore.name),
            Self::Silent { .. } | Self::Absent | Self::Closed { .. } => None,
        }
    }

    /// Returns the VNI, if the agent says that it has one.
    pub(super) fn vni(&self) -> Option<u32> {
        self.network()?.strip_prefix("vxlan ")?.parse().ok()
    }
}
