//! `cargo xtask bench --start`: how soon a starting agent reports that it is ready, as systemd sees it, and how soon the programs
//! are attached to the ports of all pods.
//!
//! Every sample has a node, an etcd and an agent of its own.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use flannel_common::abi;
use flannel_common::outcome::Hook;
use flannel_tests::{Agent, Cluster, Node, failure};
use serde::Serialize;

use super::args::Args;
use super::machine::Machine;
use super::rounds;
use super::series::median;
use super::usage;
use crate::phase;
use crate::workspace::release_agent;

/// Limit of every step, far above what any takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// Interval of looking for pins.
const INTERVAL: Duration = Duration::from_millis(1);
/// `--check` demands this of the medians of all starts.
const TARGET: f64 = 150.0;

const NETWORK: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;

/// A way to start.
#[derive(Clone, Copy, Debug, Serialize)]
struct Kind {
    /// Whether the node has nothing of an earlier agent.
    first: bool,
    /// How many pods the node has.
    pods: usize,
}

/// Numbers of pods that are measured unless others are asked for.
const PODS: [usize; 3] = [0, 1, 100];

/// The starts of one kind, in milliseconds from the start of the process.
#[derive(Debug, Serialize)]
struct Starts {
    /// The agent that was started.
    agent: PathBuf,
    kind: Kind,
    /// Until `READY=1`.
    ready: Vec<f64>,
    /// Until the programs are attached to the ports of all pods.
    ports: Vec<f64>,
    /// Resident memory then, in megabytes.
    memory: Vec<f64>,
    /// Memory that the kernel has locked for the maps then, in megabytes.
    maps: Vec<f64>,
}

/// Measures, prints the table, and checks the target if asked to.
pub(super) fn run(args: &Args, machine: &Machine) -> Result<()> {
    let agent = release_agent()?;
    let agents: Vec<_> = args.before.iter().cloned().chain([agent.clone()]).collect();
    let all = measure(args, &agents).inspect_err(|_| failure::declare())?;
    print!("{}", text(&all));
    if let Some(file) = &args.json {
        let text = format!("{:#}\n", serde_json::json!({ "machine": machine, "starts": all }));
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let missed = all.iter().filter(|starts| starts.agent == agent && median(&starts.ready) >= TARGET);
    let missed: Vec<_> = missed.map(Starts::name).collect();
    if args.check && !missed.is_empty() {
        bail!("READY=1 takes {TARGET} ms or more: {}", missed.join("; "));
    }
    Ok(())
}

/// Measures every kind in every round, so that other load on the machine slows all of them.
fn measure(args: &Args, agents: &[PathBuf]) -> Result<Vec<Starts>> {
    let starts = |kind| {
        agents.iter().map(move |agent| Starts {
            agent: agent.clone(),
            kind,
            ready: Vec::new(),
            ports: Vec::new(),
            memory: Vec::new(),
            maps: Vec::new(),
        })
    };
    let pods = if args.pods.is_empty() { &PODS[..] } else { &args.pods };
    let kinds =
        [true, false].into_iter().flat_map(|first| pods.iter().map(move |pods| Kind { first, pods: *pods }));
    let mut all: Vec<_> = kinds.flat_map(starts).collect();
    for round in 1..=args.rounds {
        for starts in &mut all {
            rounds::ensure_wanted()?;
            let Start { ready, ports, memory, maps } =
                start(starts.kind, &starts.agent).with_context(|| starts.name())?;
            phase::note(&format!(
                "round {round} of {}: {}: {ready:.0} ms, all ports {ports:.0} ms",
                args.rounds,
                starts.name()
            ));
            starts.ready.push(ready);
            starts.ports.push(ports);
            starts.memory.push(memory);
            starts.maps.push(maps);
        }
    }
    Ok(all)
}

/// One start: the values of [`Starts`].
struct Start {
    ready: f64,
    ports: f64,
    memory: f64,
    maps: f64,
}

/// Measures one start.
fn start(Kind { first, pods }: Kind, program: &Path) -> Result<Start> {
    let cluster = Cluster::segment(1)?;
    let node = cluster.nodes().first().context("no node")?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(NETWORK)?;
    let agent = Agent::builder(node).etcd(&etcd).program(program);
    let mut agent = agent.arg("--dataplane=auto").arg("--ip-masq").start()?;
    agent.wait_ready()?;
    let _pods: Vec<_> = (0..pods).map(|_| node.add_pod()).collect::<Result<_>>()?;
    wait_ports(node, pods)?;
    if first {
        agent.clean_up()?;
    } else {
        agent.term()?;
    }

    let start = Instant::now();
    agent.restart()?;
    let ready = start.elapsed();
    wait_ports(node, pods)?;
    let ports = start.elapsed();
    Ok(Start {
        ready: millis(ready),
        ports: millis(ports),
        memory: usage::memory(agent.pid(), "VmRSS:")? as f64 / 1e6,
        maps: usage::locked(agent.pid())? as f64 / 1e6,
    })
}

/// Waits until the programs are attached to this many ports.
fn wait_ports(node: &Node, count: usize) -> Result<()> {
    let (dir, start) = (node.bpffs()?.join(abi::PIN_DIR).join("1"), Instant::now());
    let last = format!("{}_link_", Hook::PodIngress.program());
    loop {
        let pins = fs::read_dir(&dir).into_iter().flatten().flatten();
        let attached = pins.filter(|pin| pin.file_name().to_string_lossy().starts_with(&last)).count();
        if attached == count {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "programs are attached to {attached} ports of {count}");
        thread::sleep(INTERVAL);
    }
}

impl Starts {
    fn name(&self) -> String {
        let Kind { first, pods } = self.kind;
        let what = if first { "first start" } else { "restart" };
        format!("{what} with {pods} pods, {}", self.agent.display())
    }
}

/// Returns one line per kind of start.
fn text(all: &[Starts]) -> String {
    let mut text = format!(
        "\n{:<70}{:>10}{:>14}{:>14}{:>14}{:>14}\n",
        "READY=1, ms", "median", "all", "all ports", "memory MB", "maps MB"
    );
    for starts in all {
        let least = starts.ready.iter().copied().fold(f64::INFINITY, f64::min);
        let most = starts.ready.iter().copied().fold(0.0, f64::max);
        let range = format!("{least:.0} to {most:.0}");
        let [ready, ports, memory, maps] =
            [&starts.ready, &starts.ports, &starts.memory, &starts.maps].map(|values| median(values));
        let name = starts.name();
        let _ = writeln!(text, "{name:<70}{ready:>10.0}{range:>14}{ports:>14.0}{memory:>14.1}{maps:>14.1}");
    }
    text
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
