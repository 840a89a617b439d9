//! The accelerator: BPF programs that encapsulate and decapsulate on top of the floor.
//!
//! Programs, maps and links are pinned under `<bpffs>/flannel/<VNI>/`, so that they outlive the agent; the
//! next one adopts the maps, replaces the programs atomically and goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use aya::maps::{Array, MapData};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use flannel_common::abi;
use flannel_common::address::{V4, V6};
use flannel_common::node::NodeConfig;
use flannel_common::outcome::Hook;
use ipnet::IpNet;

use crate::dataplane::kernel::Kernel;
use crate::peer::Peer;

pub mod attach;
mod batch;
pub mod counters;
pub mod dry_run;
pub mod events;
mod family;
mod flows;
mod leases;
mod link;
pub mod logs;
pub mod pins;
pub mod place;
mod ports;
mod syscall;
pub mod xdp;

use attach::Mechanism;
use events::Events;
use family::Maps;
use pins::Pins;
use place::Place;

/// The compiled programs.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/flannel-ebpf"));

/// Loaded programs and their maps.
pub struct Bpf {
    ebpf: Ebpf,
    pins: Pins,
    config: Array<MapData, NodeConfig>,
    /// What `CONFIG` holds once `LEASES` and `LEASES6` are complete.
    node: NodeConfig,
    v4: Maps<V4>,
    v6: Maps<V6>,
    /// The node's own hooks that they are on.
    places: Vec<Place>,
    /// The bridge ports that our programs are attached to.
    ports: BTreeSet<u32>,
    /// Those that the previous agent's are, until [`Bpf::follow`] takes them over.
    inherited: BTreeSet<u32>,
    /// What the previous agent's programs were attached to.
    previous: Option<NodeConfig>,
}

impl Bpf {
    /// Loads the programs, on the pinned maps of an earlier agent if they have our layout, and tells them who and where
    /// we are. With `debug`, every program run is logged.
    ///
    /// # Errors
    /// No bpffs, no privilege, or a kernel that refuses map or program: the verifier's words are included.
    pub fn load(pins: Pins, node: &NodeConfig, debug: bool) -> Result<Self> {
        let previous = pins.prepare(node)?;
        if previous.is_none() {
            // What it leaves for TC our programs would not understand.
            xdp::detach(&pins)?;
        }
        let node = xdp::inherit(node, previous.as_ref())?;
        let mut ebpf = load_programs(&pins, &abi::PINNED_MAPS, &node, debug)?;
        let config = Array::try_from(take(&mut ebpf, abi::CONFIG)?)?;
        let (v4, v6) = (Maps::open(&mut ebpf, &node)?, Maps::open(&mut ebpf, &node)?);
        let (inherited, ports) = (ports::pinned(&pins), BTreeSet::new());
        let mut bpf =
            Self { ebpf, pins, config, node, v4, v6, places: Vec::new(), ports, inherited, previous };
        bpf.write(&without_new_checks(&node, &previous.unwrap_or_default()))?;
        Ok(bpf)
    }

    fn write(&mut self, node: &NodeConfig) -> Result<()> {
        self.config.set(0, node, 0).context("writing the node's facts to the BPF map CONFIG")
    }

    /// Puts the programs on their hooks, replacing those of an earlier agent without a gap.
    ///
    /// # Errors
    /// The kernel refuses; what is attached already stays, the floor carries the rest.
    pub fn attach(&mut self, places: &[Place]) -> Result<Mechanism> {
        let mut mechanism = Mechanism::Tcx;
        for place in places {
            let adopt =
                self.previous.is_some_and(|previous| place.index(&previous) == place.index(&self.node));
            let (hook, interface) = (place.hook, place.interface.as_str());
            let program = program(&mut self.ebpf, hook)?;
            mechanism = attach::attach(program, hook, interface, &place.link(), adopt, &self.pins)
                .with_context(|| format!("attaching {} to {interface}", hook.program()))?;
        }
        self.places = places.to_vec();
        // Of a family that the network no longer has.
        place::other_links(places).try_for_each(|link| self.pins.remove(&link))?;
        if mechanism == Mechanism::Clsact {
            // No pin tells which ports the previous agent's filters are on.
            let NodeConfig { v4, v6, .. } = self.node;
            let ours = [v4.overlay_ifindex, v4.uplink_ifindex, v6.overlay_ifindex, v6.uplink_ifindex];
            self.inherited.extend(attach::interfaces_beside(&ours)?);
        }
        for hook in Hook::classifiers() {
            let program = program(&mut self.ebpf, hook)?;
            self.pins.replace(hook.program(), |path| Ok(program.pin(path)?))?;
        }
        Ok(mechanism)
    }

    /// Whether the programs are where [`Self::attach`] and [`Self::attach_xdp`] have put them; where the kernel does not say,
    /// they are.
    pub async fn is_attached(&self, kernel: &Kernel) -> bool {
        for place in &self.places {
            let Ok(program) = loaded(&self.ebpf, place.hook) else { continue };
            let index = place.index(&self.node);
            let attached = attach::is_attached(program, place.hook, &place.interface, index, kernel).await;
            if matches!(attached, Ok(false)) {
                return false;
            }
        }
        self.is_xdp_attached()
    }

    /// Lets the programs know our own subnet of a family, with the next [`Self::apply`].
    pub fn serve(&mut self, subnet: IpNet) {
        self.v4.serve(subnet, &self.node);
        self.v6.serve(subnet, &self.node);
    }

    /// Makes `LEASES` and `LEASES6` hold exactly these peers and ourselves. `direct`: the subnets that are routed without
    /// a tunnel.
    ///
    /// # Errors
    /// A map cannot be written; what was written stays, the floor carries the rest.
    pub fn apply(&mut self, peers: &[Peer], direct: &BTreeMap<IpNet, IpAddr>) -> Result<()> {
        self.v4.leases.apply(peers, direct)?;
        self.v6.leases.apply(peers, direct)?;
        self.write(&{ self.node })
    }

    /// Adds these peers to `LEASES` and `LEASES6`, none of which is routed without a tunnel; false if it is not done with
    /// adding, and all are to be applied.
    ///
    /// # Errors
    /// As of [`Self::apply`].
    pub fn add_peers(&mut self, joined: &[Peer]) -> Result<bool> {
        Ok(self.v4.leases.add_peers(joined)? && self.v6.leases.add_peers(joined)?)
    }

    /// What the programs tell from now on.
    ///
    /// # Errors
    /// It is being read already, or there is no tokio runtime.
    pub fn events(&mut self) -> Result<Events> {
        Events::open(&mut self.ebpf)
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

/// Loads the programs, on the pinned maps of these names, and on new ones for the others.
fn load_programs(pins: &Pins, maps: &[&'static str], node: &NodeConfig, debug: bool) -> Result<Ebpf> {
    let mut loader = loader(debug);
    for (name, entries) in family::rooms(node) {
        loader.map_max_entries(name, entries);
    }
    for name in maps {
        loader.map_pin_path(name, pins.path(name));
    }
    let mut ebpf = loader.load(OBJECT).context("loading the BPF maps")?;
    for hook in Hook::classifiers() {
        let loaded = program(&mut ebpf, hook)?.load();
        loaded.with_context(|| format!("loading the BPF program {}", hook.program()))?;
    }
    Ok(ebpf)
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

/// The node until its leases are there: an empty map would make everybody a stranger. What is checked goes on.
fn without_new_checks(node: &NodeConfig, previous: &NodeConfig) -> NodeConfig {
    let mut first = *node;
    first.v4.source_check = first.v4.source_check.min(previous.v4.source_check);
    first.v6.source_check = first.v6.source_check.min(previous.v6.source_check);
    first
}

/// Takes an earlier agent's programs off their hooks and removes their pins: the floor carries everything.
///
/// # Errors
/// A pin cannot be removed.
pub fn detach(pins: &Pins) -> Result<()> {
    xdp::detach(pins)?;
    attach::detach_clsact_everywhere()?;
    pins.remove_all()
}

fn program(ebpf: &mut Ebpf, hook: Hook) -> Result<&mut SchedClassifier> {
    let name = hook.program();
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name} in the object"))?;
    Ok(program.try_into()?)
}

fn loaded(ebpf: &Ebpf, hook: Hook) -> Result<&SchedClassifier> {
    let name = hook.program();
    let program = ebpf.program(name).with_context(|| format!("no program {name} in the object"))?;
    Ok(program.try_into()?)
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map> {
    ebpf.take_map(name).with_context(|| format!("no map {name} in the object"))
}
