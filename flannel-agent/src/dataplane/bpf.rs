//! The accelerator: BPF programs that encapsulate and decapsulate on top of the floor.
//!
//! Programs, maps and links are pinned under `<bpffs>/flannel/<VNI>/`, so that they outlive the agent. The next agent
//! adopts the maps and replaces the programs atomically.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::thread;

use anyhow::{Context as _, Result};
use aya::programs::{Program, SchedClassifier};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use flannel_common::abi;
use flannel_common::flow::each_ns;
use flannel_common::node::{FEATURE_XDP, NodeConfig};
use flannel_common::outcome::Hook;

use self::link::Link;
use crate::dataplane::kernel::Kernel;

pub mod attach;
mod batch;
pub mod capture;
pub mod clock;
pub mod config_map;
pub mod counters;
pub mod dry_run;
pub mod events;
mod family;
pub mod flows;
pub mod former;
pub mod inspect;
pub mod kept;
mod lease_map;
pub mod leases;
mod link;
pub mod logs;
mod order;
pub mod pins;
pub mod place;
mod ports;
mod prefix;
mod sides;
mod sizes;
mod strays;
mod syscall;
pub mod tcx;
mod waiting;
pub mod xdp;

use attach::Mechanism;
use config_map::ConfigMap;
use flows::Flows;
use kept::KeptMap;
use leases::LeaseMaps;
use pins::Pins;
use place::Place;
use ports::PortMacs;
use waiting::Waiting;

/// The programs as a node wants them.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// What the programs know of the node.
    pub node: NodeConfig,
    /// Capacity for flows of one address family.
    pub max_flows: u32,
    /// Whether XDP may be attached later.
    pub xdp: bool,
    /// Whether every program run is logged.
    pub log: bool,
}

/// The compiled programs.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/flannel-ebpf"));

/// The program that the verifier takes longest for: nearly half of the time for all of them.
const LONGEST: Hook = Hook::UnderlayIngress;

/// The ring of aya-log, which programs have also while they log nothing.
const LOG_RING: &str = "AYA_LOGS";

/// Loaded programs and their maps.
pub struct Bpf {
    /// `CONFIG`.
    pub config: ConfigMap,
    /// `KEPT`.
    pub kept: KeptMap,
    /// `LEASES` and `SUBNETS`, of both address families.
    pub leases: LeaseMaps,
    ebpf: Ebpf,
    pins: Pins,
    /// The kernel's IDs of the programs of TC.
    ids: BTreeSet<u32>,
    flows: Flows,
    port_macs: PortMacs,
    /// The node's own hooks that the programs are attached to.
    places: Vec<Place>,
    /// The bridge ports that the programs are attached to.
    ports: BTreeSet<u32>,
    /// Ports with programs of the previous agent, until they are taken over.
    inherited: BTreeSet<u32>,
    /// Other interfaces where senders are checked.
    sides: BTreeSet<u32>,
    /// Ports and other interfaces where the programs are to be attached.
    waiting: Waiting,
    /// How programs are attached.
    mechanism: Mechanism,
    /// The node as the previous agent's programs know it.
    previous: Option<NodeConfig>,
}

impl Bpf {
    /// Loads the programs for this node, on the pinned maps of an earlier agent if their layout and size are the same. On other maps one is
    /// left for [`Self::attach`] to load.
    ///
    /// # Errors
    /// No BPF filesystem, no privilege, or a kernel that refuses a map or a program: the verifier's message is included.
    pub fn load(pins: Pins, Wanted { node, max_flows, xdp, log }: Wanted) -> Result<Self> {
        let previous = pins.prepare(&node, max_flows)?;
        if previous.is_none() {
            // The new programs would not understand what it leaves in the metadata of packets.
            xdp::detach(&pins)?;
        }
        let node = xdp::inherit(&node, previous.as_ref())?;
        let features = node.features() | if xdp { FEATURE_XDP } else { 0 };
        let constants = Constants::new(features, max_flows);
        let mut ebpf = load_maps(loader(log), &pins, &abi::PINNED_MAPS, &node, &constants)?;
        // On a node that has none yet, it is loaded while the others are attached.
        let is_loaded_now = |name: &str| previous.is_some() || name != LONGEST.program();
        load_classifiers(&mut ebpf, is_loaded_now)?;
        Ok(Self {
            leases: LeaseMaps::open(&mut ebpf, &node)?,
            flows: Flows::open(&mut ebpf)?,
            port_macs: PortMacs::open(&mut ebpf)?,
            kept: KeptMap::open(&mut ebpf)?,
            config: ConfigMap::open(&mut ebpf, node, previous.as_ref())?,
            places: Vec::new(),
            ports: BTreeSet::new(),
            inherited: ports::pinned(&pins),
            sides: BTreeSet::new(),
            waiting: Waiting::default(),
            mechanism: Mechanism::Tcx,
            previous,
            ids: ids(&mut ebpf)?,
            ebpf,
            pins,
        })
    }

    /// Attaches the programs to their hooks, in place of an earlier agent's without a gap.
    ///
    /// # Errors
    /// The kernel refuses, also to load the one that is not loaded yet. What is attached already stays, and the floor carries the rest.
    pub fn attach(&mut self, places: &[Place]) -> Result<Mechanism> {
        if self.previous.is_none() {
            // An earlier agent's program would not know the note of the new ones, and drop what they have accepted.
            for place in places.iter().filter(|place| place.hook == Hook::OverlayIngress) {
                // Without its pin alone it would run on for a while (an RCU grace period).
                if let Ok(link) = Link::pinned(&self.pins.path(&place.link())) {
                    link.detach()?;
                }
                attach::detach_clsact(place.hook, &place.interface, self.pins.vni());
            }
        }
        self.mechanism = self.attach_to(places)?;
        self.places = places.to_vec();
        self.ids = ids(&mut self.ebpf)?;
        // Links of a family that the network no longer has.
        place::other_links(places).try_for_each(|link| self.pins.remove(&link))?;
        if self.mechanism == Mechanism::Clsact {
            // Pins do not show which ports have filters of the previous agent.
            self.inherited.extend(attach::interfaces_beside(&self.own_interfaces())?);
        }
        for name in Hook::classifiers().map(Hook::program).chain([abi::CLOCK]) {
            let program = classifier(&mut self.ebpf, name)?;
            self.pins.replace(name, |path| Ok(program.pin(path)?))?;
        }
        Ok(self.mechanism)
    }

    /// Attaches the programs there. One that is not loaded yet comes last: the kernel checks it on one CPU, while for each new hook it only
    /// waits for the others (`synchronize_rcu`).
    fn attach_to(&mut self, places: &[Place]) -> Result<Mechanism> {
        let Self { ebpf, pins, previous, config, .. } = self;
        let node = config.node();
        let attach = |programs: &mut Classifiers<'_>, place: &Place| {
            let (hook, interface) = (place.hook, place.interface.as_str());
            let program = programs.get_mut(hook.program()).context("no such program in the object")?;
            let adopt = previous.is_some_and(|previous| place.index(&previous) == place.index(node));
            attach::attach(program, hook, interface, &place.link(), adopt, pins)
                .with_context(|| format!("attaching {} to {interface}", hook.program()))
        };
        let mut programs = classifiers(ebpf);
        let mut unloaded: Classifiers<'_> =
            programs.extract_if(.., |_, program| program.fd().is_err()).collect();
        let is_loaded = |place: &&Place| !unloaded.contains_key(place.hook.program());
        let (now, then): (Vec<_>, Vec<_>) = places.iter().partition(is_loaded);
        let mut mechanism = Mechanism::Tcx;
        thread::scope(|threads| {
            let loading = threads.spawn(|| load_all(&mut unloaded));
            for place in now {
                mechanism = attach(&mut programs, place)?;
            }
            loading.join().unwrap_or_else(|panic| resume_unwind(panic))
        })?;
        for place in then {
            mechanism = attach(&mut unloaded, place)?;
        }
        Ok(mechanism)
    }

    /// Returns whether the programs are where [`Self::attach`] and [`Self::attach_xdp`] have attached them, as far as the
    /// kernel can be asked.
    pub async fn is_attached(&self, kernel: &Kernel) -> bool {
        for place in &self.places {
            let Ok(program) = loaded(&self.ebpf, place.hook) else { continue };
            let index = place.index(self.config.node());
            let attached =
                attach::is_attached(program, place.hook, index, &place.link(), &self.pins, kernel).await;
            if matches!(attached, Ok(false)) {
                return false;
            }
        }
        self.is_xdp_attached()
    }

    /// Returns the loaded object: programs, and the maps that have not been taken out of it.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}

/// Constants of the loaded programs.
struct Constants {
    /// [`abi::FEATURES`]
    features: u32,
    /// Capacity for flows of one family, and [`abi::FLOW_NS`].
    max_flows: u32,
    flow_ns: u64,
}

impl Constants {
    fn new(features: u32, max_flows: u32) -> Self {
        Self { features, max_flows, flow_ns: each_ns(max_flows) }
    }
}

/// Makes the programs' maps, or finds the pinned ones of these names. The programs get these constants.
fn load_maps<'a>(
    mut loader: EbpfLoader<'a>,
    pins: &Pins,
    maps: &[&'static str],
    node: &NodeConfig,
    constants: &'a Constants,
) -> Result<Ebpf> {
    for (name, entries) in sizes::sizes(node, constants.max_flows) {
        loader.map_max_entries(name, entries);
    }
    for name in maps {
        loader.map_pin_path(name, pins.path(name));
    }
    loader.override_global(abi::FEATURES, &constants.features, true);
    loader.override_global(abi::FLOW_NS, &constants.flow_ns, true);
    loader.load(OBJECT).context("loading the BPF maps")
}

/// Programs of TC by their names.
type Classifiers<'a> = BTreeMap<&'a str, &'a mut SchedClassifier>;

fn classifiers(ebpf: &mut Ebpf) -> Classifiers<'_> {
    let classifiers = ebpf.programs_mut().filter_map(|(name, program)| match program {
        Program::SchedClassifier(program) => Some((name, program)),
        _ => None,
    });
    classifiers.collect()
}

/// Loads the programs of TC that are wanted.
fn load_classifiers(ebpf: &mut Ebpf, is_wanted: impl Fn(&str) -> bool) -> Result<()> {
    let mut programs = classifiers(ebpf);
    programs.retain(|name, _| is_wanted(name));
    load_all(&mut programs)
}

/// Loads these programs, each in a thread of its own: the verifier takes most of the time of a start, and the kernel lets it run on
/// several CPUs.
fn load_all(programs: &mut Classifiers<'_>) -> Result<()> {
    thread::scope(|threads| {
        let loading: Vec<_> = programs
            .iter_mut()
            .map(|(name, program)| (name, threads.spawn(move || program.load())))
            .collect();
        loading.into_iter().try_for_each(|(name, thread)| {
            let loaded = thread.join().unwrap_or_else(|panic| resume_unwind(panic));
            loaded.with_context(|| format!("loading the BPF program {name}"))
        })
    })
}

/// Returns a loader for [`OBJECT`] as the agent uses it. With `debug`, every program run is logged.
#[must_use]
pub fn loader(debug: bool) -> EbpfLoader<'static> {
    const DEBUG: u8 = aya_log::Level::Debug as u8;
    // Logging that is off costs nothing: the verifier removes the code.
    const OFF: u8 = 0;
    let mut loader = EbpfLoader::new();
    loader.override_global(aya_log::LEVEL, if debug { &DEBUG } else { &OFF }, true);
    if !debug {
        // aya makes it a page.
        loader.map_max_entries(LOG_RING, 1);
    }
    loader.override_global(abi::TICK_NS, &*clock::TICK_NS, true);
    loader.verifier_log_level(VerifierLogLevel::STATS);
    loader
}

/// Detaches an earlier agent's programs and removes their pins: the floor then carries everything.
///
/// # Errors
/// A pin cannot be removed.
pub fn detach(pins: &Pins) -> Result<()> {
    xdp::detach(pins)?;
    pins.accept_unchecked();
    strays::detach_all(pins);
    attach::detach_clsact_everywhere(pins.vni())?;
    pins.remove_all()
}

fn program(ebpf: &mut Ebpf, hook: Hook) -> Result<&mut SchedClassifier> {
    classifier(ebpf, hook.program())
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name} in the object"))?;
    Ok(program.try_into()?)
}

/// Returns the kernel's IDs of the programs of TC that are loaded.
fn ids(ebpf: &mut Ebpf) -> Result<BTreeSet<u32>> {
    let loaded = classifiers(ebpf).into_values().filter(|program| program.fd().is_ok());
    let ids = loaded.map(|program| Ok(program.info()?.id()));
    ids.collect::<Result<_>>().context("reading the IDs of the programs")
}

fn loaded(ebpf: &Ebpf, hook: Hook) -> Result<&SchedClassifier> {
    let name = hook.program();
    let program = ebpf.program(name).with_context(|| format!("no program {name} in the object"))?;
    Ok(program.try_into()?)
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map> {
    ebpf.take_map(name).with_context(|| format!("no map {name} in the object"))
}
