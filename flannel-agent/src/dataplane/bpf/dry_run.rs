//! A second copy of the programs, to ask what they would do with a packet. They look into the live leases and `CONFIG`,
//! which programs only read; they count, remember and tell in maps of their own, so that the node does not notice.

pub mod known;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuHashMap};
use aya::programs::{ProgramInfo, TestRun as _, TestRunOptions};
use flannel_common::abi;
use flannel_common::address::{V4, V6};
use flannel_common::flow::{Flow, FlowKey};
use flannel_common::node::NodeConfig;
use flannel_common::outcome::{Hook, Outcome, Traffic};
use ipnet::IpNet;

use super::counters::{self, Counters};
use super::family::Family;
use super::loaded;
use super::pins::Pins;
use known::{Ends, Held, OurEnd};

/// The maps that the copy shares with the node: those that programs do not write.
const SHARED: [&str; 5] = [abi::LEASES, abi::LEASES6, abi::SUBNETS, abi::SUBNETS6, abi::CONFIG];
/// `struct __sk_buff` (linux/bpf.h): its size, and where `ingress_ifindex` and `ifindex` are; of the latter test runs take
/// notice since Linux 5.9.
const CONTEXT: usize = 192;
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;
/// By how much a program may make a frame longer.
const HEADROOM: usize = 100;

/// The longest frame in bytes that goes in: the kernel wants frame, headroom and its own notes in one page of 4 KiB
/// (net/bpf/test_run.c, `bpf_test_init`).
pub const LONGEST_FRAME: usize = 3600;

/// The copy.
pub struct DryRun {
    ebpf: Ebpf,
    pins: Pins,
    node: NodeConfig,
    leases: BTreeMap<IpNet, Held>,
    flow: Option<Flow>,
    counted: Counters,
}

/// Where a frame meets a program.
#[derive(Clone, Copy, Debug)]
pub struct Spot {
    /// The hook.
    pub hook: Hook,
    /// Index of the interface that the hook is of.
    pub interface: u32,
    /// Index of the interface that the frame was last received on; 0: it comes from this host.
    pub received_on: u32,
}

/// What a program did with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// How the run ended, as the program itself counted it.
    pub outcome: Outcome,
    /// The frame that came out.
    pub frame: Vec<u8>,
}

impl DryRun {
    /// Loads the programs beside those of a node's agent, which need not run any more.
    ///
    /// # Errors
    /// No privilege; no maps, or maps of another layout, are pinned; or the kernel refuses a program.
    pub fn open(pins: &Pins) -> Result<Self> {
        let node = node(pins)?;
        // What is not there would be made, and pinned.
        SHARED.iter().try_for_each(|name| pinned(&pins.path(name)).map(drop))?;
        let mut ebpf = super::load_programs(pins, &SHARED, &node, false)?;
        let mut leases = known::leases::<V4>(&mut ebpf)?;
        leases.append(&mut known::leases::<V6>(&mut ebpf)?);
        Ok(Self { ebpf, pins: pins.clone(), node, leases, flow: None, counted: Counters::new() })
    }

    /// The node's own facts.
    #[must_use]
    pub const fn node(&self) -> &NodeConfig {
        &self.node
    }

    /// The node's end of the overlay of this address's family, if there is one.
    #[must_use]
    pub fn ours(&self, address: IpAddr) -> Option<OurEnd> {
        OurEnd::of(&self.node, address)
    }

    /// The leases in `LEASES` and `LEASES6`.
    #[must_use]
    pub const fn leases(&self) -> &BTreeMap<IpNet, Held> {
        &self.leases
    }

    /// Whether the program that the node runs at this hook is this one, and not another version's.
    ///
    /// # Errors
    /// The program is not pinned or cannot be asked.
    pub fn is_the_nodes(&self, hook: Hook) -> Result<bool> {
        let path = self.pins.path(hook.program());
        let live = ProgramInfo::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
        Ok(live.tag() == loaded(&self.ebpf, hook)?.info()?.tag())
    }

    /// Lets the copy know what the node knows of a flow.
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub fn copy_flow(&mut self, ends: &Ends) -> Result<()> {
        if let Some(key) = ends.key::<V4>() {
            self.copy(&key)?;
        }
        if let Some(key) = ends.key::<V6>() {
            self.copy(&key)?;
        }
        Ok(())
    }

    fn copy<A: Family>(&mut self, key: &FlowKey<A>) -> Result<()> {
        let live = HashMap::<_, FlowKey<A>, Flow>::try_from(pinned(&self.pins.path(A::FLOWS))?)?;
        let flow = match live.get(key, 0) {
            Err(MapError::KeyNotFound) => return Ok(()),
            found => found.with_context(|| format!("reading {}", A::FLOWS))?,
        };
        let map =
            self.ebpf.map_mut(A::FLOWS).with_context(|| format!("no map {} in the object", A::FLOWS))?;
        HashMap::<_, FlowKey<A>, Flow>::try_from(map)?.insert(key, flow, 0).context("copying a flow")?;
        self.flow = Some(flow);
        Ok(())
    }

    /// The flow that was copied last, as the node knows it.
    #[must_use]
    pub const fn flow(&self) -> Option<&Flow> {
        self.flow.as_ref()
    }

    /// Runs one frame through the program at a hook.
    ///
    /// # Errors
    /// The kernel refuses the frame, or there is no such interface.
    pub fn run(&mut self, Spot { hook, interface, received_on }: Spot, frame: &[u8]) -> Result<Run> {
        let mut context = [0; CONTEXT];
        context[INGRESS_IFINDEX..][..4].copy_from_slice(&received_on.to_ne_bytes());
        context[IFINDEX..][..4].copy_from_slice(&interface.to_ne_bytes());
        let mut out = vec![0; frame.len() + HEADROOM];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&context);
        let result = loaded(&self.ebpf, hook)?.test_run(options).with_context(|| {
            format!("running {} on a frame of {} bytes at interface {interface}", hook.program(), frame.len())
        })?;
        out.truncate(result.data_size_out as usize);
        Ok(Run { outcome: self.outcome(hook)?, frame: out })
    }

    /// The outcome that has been counted since the last look.
    fn outcome(&mut self, hook: Hook) -> Result<Outcome> {
        let map = self.ebpf.map(abi::METRICS).context("no map METRICS in the object")?;
        let now = counters::sum(&PerCpuHashMap::try_from(map)?)?;
        let before = std::mem::replace(&mut self.counted, now);
        let moved = |(key, traffic): &(&_, &Traffic)| before.get(key) != Some(traffic);
        match self.counted.iter().find(moved) {
            Some((key, _)) if key.hook == hook => Ok(key.outcome),
            _ => bail!("{} has counted no outcome that this version knows", hook.program()),
        }
    }
}

/// The node's facts, if its maps are such as we read.
fn node(pins: &Pins) -> Result<NodeConfig> {
    let path = pins.path(abi::CONFIG);
    let node = Array::<_, NodeConfig>::try_from(pinned(&path)?)
        .and_then(|config| config.get(&0, 0))
        .with_context(|| format!("reading {}: it is another version's", path.display()))?;
    ensure!(node.layout != 0, "the agent has not written its facts to {} yet", path.display());
    ensure!(
        node.layout == abi::LAYOUT,
        "the pinned maps have layout {}, and this version reads {}: use the flannel-agent that runs here",
        node.layout,
        abi::LAYOUT
    );
    Ok(node)
}

fn pinned(path: &Path) -> Result<Map> {
    let data = MapData::from_pin(path).with_context(|| format!("opening {}", path.display()))?;
    Ok(Map::from_map_data(data)?)
}
