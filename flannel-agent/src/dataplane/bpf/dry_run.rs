//! A second copy of the programs, run on single frames to see what the programs do with them. It shares the maps that
//! programs only read: leases, `PORTS`, `KEPT` and `CONFIG`. What programs write goes to maps of its own, so that the node is not affected.

pub mod known;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use aya::programs::{ProgramInfo, TestRun as _, TestRunOptions};
use flannel_common::abi;
use flannel_common::address::{V4, V6};
use flannel_common::flow::{Flow, FlowKey};
use flannel_common::node::NodeConfig;
use flannel_common::outcome::{Hook, Outcome, Traffic};
use ipnet::IpNet;

use super::attach;
use super::counters::{self, Counters};
use super::family::MapFamily;
use super::flows::listed::{ListedFlow, of_entry};
use super::pins::Pins;
use super::{clock, loaded, take};
use crate::dataplane::kernel::Kernel;
use known::{Ends, Held, OurEnd};

/// The maps that the copy shares with the node's programs. Programs do not write them.
const SHARED: [&str; 7] =
    [abi::LEASES, abi::LEASES6, abi::SUBNETS, abi::SUBNETS6, abi::CONFIG, abi::PORTS, abi::KEPT];
/// `struct __sk_buff` (linux/bpf.h): its size, and the offsets of `priority`, `ingress_ifindex` and `ifindex`. Test runs use
/// the latter since Linux 5.9.
const CONTEXT: usize = 192;
const PRIORITY: usize = 32;
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;
/// The number of bytes that a program may add to a frame.
const HEADROOM: usize = 100;

/// The longest frame in bytes that can be run. The kernel needs frame, headroom and its own data in one page of 4 KiB
/// (net/bpf/test_run.c, `bpf_test_init`).
pub const LONGEST_FRAME: usize = 3600;

/// The copy of the programs.
pub struct DryRun {
    ebpf: Ebpf,
    pins: Pins,
    node: NodeConfig,
    leases: BTreeMap<IpNet, Held>,
    /// Index of the bridge port of the flow that was copied last.
    port: Option<u32>,
    /// What the last program has left on the packet. It has the note that the packet's sender was checked.
    priority: [u8; 4],
    counted: Counters,
}

/// Where a program receives a frame.
#[derive(Clone, Copy, Debug)]
pub struct Spot {
    /// The hook.
    pub hook: Hook,
    /// Index of the hook's interface.
    pub interface: u32,
    /// Index of the interface that the frame was last received on; 0 if it comes from this host.
    pub received_on: u32,
}

/// What a program did with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The outcome that the program counted.
    pub outcome: Outcome,
    /// The frame that came out.
    pub frame: Vec<u8>,
}

impl DryRun {
    /// Loads the programs beside the attached ones. The agent need not run.
    ///
    /// # Errors
    /// No privilege; no maps, or maps of another layout, are pinned; or the kernel refuses a program.
    pub fn open(pins: &Pins) -> Result<Self> {
        let node = node(pins)?;
        // Loading would make a map that is missing, and pin it.
        SHARED.iter().try_for_each(|name| pinned(&pins.path(name)).map(drop))?;
        let mut loader = super::loader(false);
        loader.override_global(abi::DRY_RUN, &1_u8, true);
        // Its maps of flows hold those of one frame.
        let constants = super::Constants::new(node.features(), 1024);
        let mut ebpf = super::load_maps(loader, pins, &SHARED, &node, &constants)?;
        super::load_classifiers(&mut ebpf, |_| true)?;
        let mut leases = known::leases::<V4>(take(&mut ebpf, abi::LEASES)?)?;
        leases.append(&mut known::leases::<V6>(take(&mut ebpf, abi::LEASES6)?)?);
        Ok(Self {
            ebpf,
            pins: pins.clone(),
            node,
            leases,
            port: None,
            priority: [0; 4],
            counted: Counters::new(),
        })
    }

    /// Returns what `CONFIG` says of the node.
    #[must_use]
    pub const fn node(&self) -> &NodeConfig {
        &self.node
    }

    /// Returns the node's end of the overlay of this address's family, if there is one.
    #[must_use]
    pub fn ours(&self, address: IpAddr) -> Option<OurEnd> {
        OurEnd::of(&self.node, address)
    }

    /// Returns the leases in `LEASES` and `LEASES6`.
    #[must_use]
    pub const fn leases(&self) -> &BTreeMap<IpNet, Held> {
        &self.leases
    }

    /// Returns whether the node's program for this hook is the same as the copy's, and not of another version.
    ///
    /// # Errors
    /// The program is not pinned or cannot be read.
    pub fn is_same_program(&self, hook: Hook) -> Result<bool> {
        let path = self.pins.path(hook.program());
        let live = ProgramInfo::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
        Ok(live.tag() == loaded(&self.ebpf, hook)?.info()?.tag())
    }

    /// Returns whether the node's program for this hook is attached to the interface with this index.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn is_attached(&self, hook: Hook, index: u32, kernel: &Kernel) -> Result<bool> {
        attach::is_some_attached(hook, index, &self.pins, kernel).await
    }

    /// Copies what the node knows of a flow, and returns it.
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub fn copy_flow(&mut self, ends: &Ends) -> Result<Option<ListedFlow>> {
        match (ends.key::<V4>(), ends.key::<V6>()) {
            (Some(key), _) => self.copy(&key),
            (None, Some(key)) => self.copy(&key),
            (None, None) => Ok(None),
        }
    }

    fn copy<A: MapFamily>(&mut self, key: &FlowKey<A>) -> Result<Option<ListedFlow>> {
        let live = HashMap::<_, FlowKey<A>, Flow<A>>::try_from(pinned(&self.pins.path(A::FLOWS))?)?;
        let flow = match live.get(key, 0) {
            Err(MapError::KeyNotFound) => return Ok(None),
            found => found.with_context(|| format!("reading {}", A::FLOWS))?,
        };
        let map =
            self.ebpf.map_mut(A::FLOWS).with_context(|| format!("no map {} in the object", A::FLOWS))?;
        HashMap::<_, FlowKey<A>, Flow<A>>::try_from(map)?.insert(key, flow, 0).context("copying a flow")?;
        self.port = Some(flow.port.ifindex);
        Ok(Some(of_entry(&self.node, clock::now(&self.pins)?, key, &flow)))
    }

    /// Returns the index of the bridge port of the flow that was copied last.
    #[must_use]
    pub const fn port(&self) -> Option<u32> {
        self.port
    }

    /// Runs one frame through the program at a hook. It is taken for the packet of the run before, further on its way.
    ///
    /// # Errors
    /// The kernel refuses the frame, or there is no such interface.
    pub fn run(&mut self, Spot { hook, interface, received_on }: Spot, frame: &[u8]) -> Result<Run> {
        let mut context = [0; CONTEXT];
        let mut context_out = [0; CONTEXT];
        context[PRIORITY..][..4].copy_from_slice(&self.priority);
        context[INGRESS_IFINDEX..][..4].copy_from_slice(&received_on.to_ne_bytes());
        context[IFINDEX..][..4].copy_from_slice(&interface.to_ne_bytes());
        let mut out = vec![0; frame.len() + HEADROOM];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&context);
        options.ctx_out = Some(&mut context_out);
        let result = loaded(&self.ebpf, hook)?.test_run(options).with_context(|| {
            format!("running {} on a frame of {} bytes at interface {interface}", hook.program(), frame.len())
        })?;
        self.priority.copy_from_slice(&context_out[PRIORITY..][..4]);
        out.truncate(result.data_size_out as usize);
        Ok(Run { outcome: self.outcome(hook)?, frame: out })
    }

    /// Returns the outcome counted since the last call.
    fn outcome(&mut self, hook: Hook) -> Result<Outcome> {
        let map = self.ebpf.map(abi::METRICS).context("no map METRICS in the object")?;
        let now = counters::sum(&PerCpuArray::try_from(map)?)?;
        let before = std::mem::replace(&mut self.counted, now);
        let changed = |(key, traffic): &(&_, &Traffic)| before.get(key) != Some(traffic);
        match self.counted.iter().find(changed) {
            Some((key, _)) if key.hook == hook => Ok(key.outcome),
            _ => bail!("{} has counted no known outcome", hook.program()),
        }
    }
}

/// Reads `CONFIG`, if the pinned maps have the layout of this version.
pub(super) fn node(pins: &Pins) -> Result<NodeConfig> {
    let path = pins.path(abi::CONFIG);
    let node = Array::<_, NodeConfig>::try_from(pinned(&path)?)
        .and_then(|config| config.get(&0, 0))
        .with_context(|| format!("reading {}: it is from another version", path.display()))?;
    ensure!(node.layout != 0, "the agent has not written {} yet", path.display());
    ensure!(
        node.layout == abi::LAYOUT,
        "the pinned maps have layout {}, and this version reads {}: use the flannel-agent that runs here",
        node.layout,
        abi::LAYOUT
    );
    Ok(node)
}

pub(super) fn pinned(path: &Path) -> Result<Map> {
    let data = MapData::from_pin(path).with_context(|| format!("opening {}", path.display()))?;
    Ok(Map::from_map_data(data)?)
}
