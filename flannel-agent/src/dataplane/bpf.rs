//! The accelerator: BPF programs that encapsulate and decapsulate on top of the floor.
//!
//! Programs, maps and links are pinned under `<bpffs>/flannel/<VNI>/`, so that they outlive the agent; the
//! next one adopts the maps, replaces the programs atomically and goes on.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, MapData};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use flannel_common::abi;
use flannel_common::flow::{Flow, FlowKey};
use flannel_common::node::Node;
use flannel_common::outcome::Hook;
use ipnet::Ipv4Net;

use crate::dataplane::desired::Peer;

pub mod attach;
mod batch;
pub mod counters;
mod flows;
mod leases;
pub mod logs;
pub mod pins;
mod ports;

use attach::Mechanism;
use leases::Leases;
use pins::Pins;

/// The compiled programs.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/flannel-ebpf"));

/// Loaded programs and their maps.
pub struct Bpf {
    ebpf: Ebpf,
    pins: Pins,
    config: Array<MapData, Node>,
    /// What `CONFIG` holds once `LEASES` is complete.
    node: Node,
    leases: Leases,
    flows: HashMap<MapData, FlowKey, Flow>,
    /// The bridge ports that our programs are attached to.
    ports: BTreeSet<u32>,
    /// Those that the previous agent's are, until [`Bpf::follow`] takes them over.
    inherited: BTreeSet<u32>,
    /// What the previous agent's programs were attached to.
    previous: Option<Node>,
}

impl Bpf {
    /// Loads the programs, on the pinned maps of an earlier agent if they have our layout. With `debug`,
    /// every program run is logged.
    ///
    /// # Errors
    /// No bpffs, no privilege, or a kernel that refuses map or program: the verifier's words are included.
    pub fn load(pins: Pins, debug: bool) -> Result<Self> {
        let previous = pins.prepare()?;
        let mut loader = loader(debug);
        for name in abi::PINNED_MAPS {
            loader.map_pin_path(name, pins.path(name));
        }
        let mut ebpf = loader.load(OBJECT).context("loading the BPF maps")?;
        for hook in Hook::ALL {
            program(&mut ebpf, *hook)?
                .load()
                .with_context(|| format!("loading the BPF program {}", hook.program()))?;
        }
        let config = Array::try_from(take(&mut ebpf, abi::CONFIG)?)?;
        let leases = Leases::open(take(&mut ebpf, abi::LEASES)?)?;
        let flows = HashMap::try_from(take(&mut ebpf, abi::FLOWS)?)?;
        let inherited = ports::pinned(&pins);
        let ports = BTreeSet::new();
        Ok(Self { ebpf, pins, config, node: Node::default(), leases, flows, ports, inherited, previous })
    }

    /// Tells the programs who and where we are.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn configure(&mut self, node: &Node) -> Result<()> {
        self.node = *node;
        let checked = self.previous.map_or(0, |previous| previous.source_check);
        // Until the leases are there, an empty map would make everybody a stranger.
        self.write(&Node { source_check: node.source_check.min(checked), ..*node })
    }

    fn write(&mut self, node: &Node) -> Result<()> {
        self.config.set(0, node, 0).context("writing the node's facts to the BPF map CONFIG")
    }

    /// Puts the programs on their hooks, replacing those of an earlier agent without a gap.
    ///
    /// # Errors
    /// The kernel refuses; what is attached already stays, the floor carries the rest.
    pub fn attach(&mut self, overlay: &str, uplink: &str, node: &Node) -> Result<Mechanism> {
        let adopt = self.previous.is_some_and(|previous| {
            (previous.overlay_ifindex, previous.uplink_ifindex) == (node.overlay_ifindex, node.uplink_ifindex)
        });
        let mut mechanism = Mechanism::Tcx;
        for (hook, interface) in places(overlay, uplink) {
            let program = program(&mut self.ebpf, hook)?;
            mechanism = attach::attach(program, hook, interface, &attach::link_name(hook), adopt, &self.pins)
                .with_context(|| format!("attaching {} to {interface}", hook.program()))?;
        }
        if mechanism == Mechanism::Clsact {
            // No pin tells which ports the previous agent's filters are on.
            self.inherited.extend(attach::interfaces_beside([node.overlay_ifindex, node.uplink_ifindex])?);
        }
        for hook in Hook::ALL {
            let program = program(&mut self.ebpf, *hook)?;
            self.pins.replace(hook.program(), |path| Ok(program.pin(path)?))?;
        }
        Ok(mechanism)
    }

    /// Lets the programs know our own subnet, with the next [`Self::apply`].
    pub fn serve(&mut self, subnet: Ipv4Net) {
        self.leases.set_own(subnet, self.node.local_ip, self.node.vtep_mac);
    }

    /// Makes `LEASES` hold exactly these peers and ourselves.
    ///
    /// # Errors
    /// The map cannot be written; what was written stays, the floor carries the rest.
    pub fn apply(&mut self, peers: &[Peer]) -> Result<()> {
        self.leases.apply(peers)?;
        self.write(&{ self.node })
    }

    /// Forwards what the programs log to the agent's log.
    ///
    /// # Errors
    /// The programs were loaded without logging.
    pub fn log(&mut self) -> Result<()> {
        logs::forward(&mut self.ebpf)
    }

    /// The loaded programs and maps, for those who look on: tests.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}

/// What loads [`OBJECT`] as the agent has it loaded. With `debug`, every program run is logged.
#[must_use]
pub fn loader(debug: bool) -> EbpfLoader<'static> {
    const DEBUG: u8 = aya_log::Level::Debug as u8;
    // Logging that is off costs nothing: the verifier removes it.
    const OFF: u8 = 0;
    let mut loader = EbpfLoader::new();
    loader.override_global(aya_log::LEVEL, if debug { &DEBUG } else { &OFF }, true);
    loader.verifier_log_level(VerifierLogLevel::STATS);
    loader
}

/// Takes an earlier agent's programs off their hooks and removes their pins: the floor carries everything.
///
/// # Errors
/// A pin cannot be removed.
pub fn detach(pins: &Pins) -> Result<()> {
    attach::detach_clsact_everywhere()?;
    pins.remove_all()
}

/// Where the node's own hooks are. Unwrap before wrapping: peers may send as soon as they can.
const fn places<'a>(overlay: &'a str, uplink: &'a str) -> [(Hook, &'a str); 3] {
    [(Hook::UnderlayIngress, uplink), (Hook::OverlayIngress, overlay), (Hook::OverlayEgress, overlay)]
}

fn program(ebpf: &mut Ebpf, hook: Hook) -> Result<&mut SchedClassifier> {
    let name = hook.program();
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name} in the object"))?;
    Ok(program.try_into()?)
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map> {
    ebpf.take_map(name).with_context(|| format!("no map {name} in the object"))
}
