//! A second copy of the programs, to ask what they would do with a packet. They look into the live `LEASES` and
//! `CONFIG`, which programs only read; they count and remember in maps of their own, so that the node does not notice.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use aya::Ebpf;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuHashMap};
use aya::programs::{ProgramInfo, SchedClassifier, TestRun as _, TestRunOptions};
use flannel_common::abi;
use flannel_common::flow::{Flow, FlowKey};
use flannel_common::lease::Lease;
use flannel_common::node::Node;
use flannel_common::outcome::{Hook, Outcome, Traffic};
use ipnet::Ipv4Net;

use super::counters::{self, Counters};
use super::pins::Pins;
use super::{leases, take};

/// The maps that the copy shares with the node.
const SHARED: [&str; 2] = [abi::LEASES, abi::CONFIG];
/// `struct __sk_buff` (linux/bpf.h): its size, and where `ifindex` is, which test runs heed since Linux 5.9.
const CONTEXT: usize = 192;
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
    node: Node,
    leases: BTreeMap<Ipv4Net, Lease>,
    live_flows: HashMap<MapData, FlowKey, Flow>,
    flow: Option<Flow>,
    counted: Counters,
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
        let mut ebpf = super::load_programs(pins, &SHARED, 0)?;
        let trie = LpmTrie::<_, [u8; 4], Lease>::try_from(take(&mut ebpf, abi::LEASES)?)?;
        let leases = leases::entries(&trie)?.iter().map(|(subnet, lease)| (*subnet, *lease)).collect();
        let live_flows = HashMap::try_from(pinned(&pins.path(abi::FLOWS))?)?;
        Ok(Self { ebpf, pins: pins.clone(), node, leases, live_flows, flow: None, counted: Counters::new() })
    }

    /// The node's own facts.
    #[must_use]
    pub const fn node(&self) -> &Node {
        &self.node
    }

    /// What `LEASES` holds.
    #[must_use]
    pub const fn leases(&self) -> &BTreeMap<Ipv4Net, Lease> {
        &self.leases
    }

    /// Whether the program that the node runs at this hook is this one, and not another version's.
    ///
    /// # Errors
    /// The program is not pinned or cannot be asked.
    pub fn is_the_nodes(&self, hook: Hook) -> Result<bool> {
        let path = self.pins.path(hook.program());
        let live = ProgramInfo::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
        Ok(live.tag() == self.program(hook)?.info()?.tag())
    }

    /// Lets the copy know what the node knows of a flow.
    ///
    /// # Errors
    /// A map cannot be read or written.
    pub fn copy_flow(&mut self, key: &FlowKey) -> Result<()> {
        let flow = match self.live_flows.get(key, 0) {
            Err(MapError::KeyNotFound) => return Ok(()),
            found => found.context("reading FLOWS")?,
        };
        let map = self.ebpf.map_mut(abi::FLOWS).context("no map FLOWS in the object")?;
        HashMap::<_, FlowKey, Flow>::try_from(map)?.insert(key, flow, 0).context("copying a flow")?;
        self.flow = Some(flow);
        Ok(())
    }

    /// The flow that was copied last, as the node knows it.
    #[must_use]
    pub const fn flow(&self) -> Option<&Flow> {
        self.flow.as_ref()
    }

    /// Runs one frame through the program at `hook`, as at the interface with this index.
    ///
    /// # Errors
    /// The kernel refuses the frame, or there is no such interface.
    pub fn run(&mut self, hook: Hook, frame: &[u8], interface: u32) -> Result<Run> {
        let mut context = [0; CONTEXT];
        context[IFINDEX..][..4].copy_from_slice(&interface.to_ne_bytes());
        let mut out = vec![0; frame.len() + HEADROOM];
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&context);
        let result = self.program(hook)?.test_run(options).with_context(|| {
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

    fn program(&self, hook: Hook) -> Result<&SchedClassifier> {
        let name = hook.program();
        let program = self.ebpf.program(name).with_context(|| format!("no program {name} in the object"))?;
        Ok(program.try_into()?)
    }
}

/// The node's facts, if its maps are such as we read.
fn node(pins: &Pins) -> Result<Node> {
    let path = pins.path(abi::CONFIG);
    let node = Array::<_, Node>::try_from(pinned(&path)?)
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
