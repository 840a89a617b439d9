//! What is pinned and attached, read without an agent and without loading anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, Result};
use aya::maps::HashMap;
use aya::programs::ProgramInfo;
use flannel_common::abi;
use flannel_common::address::{V4, V6};
use flannel_common::lease::{NODE, OWN};
use flannel_common::node::{NodeConfig, XDP_OFF};
use flannel_common::outcome::Hook;
use ipnet::IpNet;

use super::counters::{self, Counters};
use super::dry_run::known::{self, Held};
use super::dry_run::{node, pinned};
use super::link::Link;
use super::pins::{Pins, link_name};
use super::{attach, xdp};
use crate::dataplane::kernel::Kernel;

/// Whether the kernel counts runs of programs.
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// The programs and maps of one overlay.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// What the programs know of the node.
    pub node: NodeConfig,
    /// The leases of both address families.
    pub leases: BTreeMap<IpNet, Held>,
    /// The counters.
    pub counters: Counters,
    /// One for each hook where a program is attached, or should be.
    pub programs: Vec<Attachments>,
    /// The ports of pods whose flows may take the shortcut.
    pub ports: BTreeSet<u32>,
}

/// Where a program is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachments {
    /// Its hook.
    pub hook: Hook,
    /// The interfaces that have it, by index.
    pub attached: BTreeSet<u32>,
    /// The interfaces that should have it, and do not.
    pub missing: BTreeSet<u32>,
    /// How often it has run since it was loaded; `None` if the kernel does not count.
    pub runs: Option<Runs>,
}

/// Runs of a program on all interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Runs {
    /// How many there were.
    pub count: u64,
    /// How long they took, in nanoseconds.
    pub nanoseconds: u64,
}

impl Inspection {
    /// Reads the pins of an overlay, and asks the kernel where its programs are attached.
    ///
    /// # Errors
    /// No privilege; no maps, or maps of another layout, are pinned; or the kernel does not answer.
    pub async fn of(pins: &Pins, kernel: &Kernel) -> Result<Self> {
        let node = node(pins)?;
        let mut leases = known::leases::<V4>(pinned(&pins.path(abi::LEASES))?)?;
        leases.append(&mut known::leases::<V6>(pinned(&pins.path(abi::LEASES6))?)?);
        let ports = HashMap::<_, u32, [u8; 6]>::try_from(pinned(&pins.path(abi::PORTS))?)?;
        let ports = ports.keys().collect::<Result<BTreeSet<_>, _>>().context("reading PORTS")?;
        let counters = counters::read(pins)?;
        let are_counted = fs::read_to_string(STATISTICS).is_ok_and(|text| text.trim() == "1");
        let names = pins.names();
        let mut programs = Vec::new();
        for hook in Hook::ALL.iter().copied() {
            let mut attached = linked(pins, &names, hook);
            let mut missing = BTreeSet::new();
            for place in expected(hook, &node, &ports) {
                if attached.contains(&place) {
                    continue;
                }
                if hook.is_classifier() && attach::has_filter(hook, place, pins.vni(), kernel).await? {
                    attached.insert(place);
                } else {
                    missing.insert(place);
                }
            }
            if !attached.is_empty() || !missing.is_empty() {
                let runs = are_counted.then(|| runs(pins, hook)).flatten();
                programs.push(Attachments { hook, attached, missing, runs });
            }
        }
        Ok(Self { node, leases, counters, programs, ports })
    }

    /// Returns the node's own subnets.
    pub fn own_subnets(&self) -> impl Iterator<Item = IpNet> {
        let own = self.leases.iter().filter(|(_, lease)| lease.flags & (OWN | NODE) == OWN);
        own.map(|(subnet, _)| *subnet)
    }
}

/// Returns the indexes of the interfaces that pinned links attach the program of this hook to.
fn linked(pins: &Pins, names: &[String], hook: Hook) -> BTreeSet<u32> {
    let start = link_name(hook, "");
    let links = names.iter().filter(|name| name.starts_with(&start));
    let attached = links.filter_map(|name| Link::pinned(&pins.path(name)).ok()?.attachment().ok());
    // A link without an interface is detached.
    attached.map(|(interface, _)| interface).filter(|interface| *interface != 0).collect()
}

/// Returns the interfaces that should have the program of this hook, as far as the maps tell.
fn expected(hook: Hook, node: &NodeConfig, ports: &BTreeSet<u32>) -> BTreeSet<u32> {
    let NodeConfig { v4, v6, .. } = node;
    let uplinks = [v4.uplink_ifindex, v6.uplink_ifindex];
    let overlays = [v4.overlay_ifindex, v6.overlay_ifindex];
    let there = |interfaces: [u32; 2], wanted: bool| {
        interfaces.into_iter().filter(|index| wanted && *index != 0).collect()
    };
    match hook {
        Hook::UnderlayIngress => there(uplinks, true),
        Hook::UnderlayEgress => there(uplinks, node.direct_routing != 0),
        Hook::UnderlayXdp => there([xdp::ifindex(node), 0], node.xdp != XDP_OFF),
        Hook::OverlayIngress | Hook::OverlayEgress => there(overlays, true),
        Hook::PodEgress | Hook::PodIngress => ports.clone(),
        // Which other interfaces there are the agent alone knows.
        Hook::SideIngress => BTreeSet::new(),
    }
}

fn runs(pins: &Pins, hook: Hook) -> Option<Runs> {
    let info = ProgramInfo::from_pin(pins.path(hook.program())).ok()?;
    let nanoseconds = u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX);
    Some(Runs { count: info.run_count(), nanoseconds })
}
