//! Measures one agent on one node, with one datastore full of leases.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flannel_tests::{Agent, Cluster, Node};

use super::changes;
use super::sample::{Sample, millis};
use super::store::Programs;
use crate::bench::crowd::{Backend, Lease};
use crate::bench::series::median;
use crate::bench::usage;

/// Limit of every step, far above what any takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// Runs of a subcommand that shows the state.
const RUNS: u32 = 5;
/// Interval of looking for a file.
const INTERVAL: Duration = Duration::from_micros(200);

/// Starts an agent among this many leases and measures it.
pub(super) fn measure(program: &Path, datastore: &Programs, backend: Backend, leases: u32) -> Result<Sample> {
    let cluster = Cluster::segment(1)?;
    let node = cluster.nodes().first().context("no node")?;
    let store = datastore.start(&cluster, backend, leases)?;
    // All peers are on the link.
    node.exec("ip address add 172.31.255.254/12 dev eth0")?;

    // Beside few leases, those that come and go here would be held.
    let agent = Agent::builder(node).store(store.datastore()).program(program).arg("--lease-hold=0");
    let start = Instant::now();
    let mut agent = agent.start()?;
    let subnet_file = appears(&node.subnet_file(), start)?;
    wait_peers(&mut agent, leases)?;
    let all_leases = start.elapsed();
    let cpu = usage::cpu(agent.pid())?;
    let [memory, peak] = ["VmRSS:", "VmHWM:"].map(|which| usage::memory(agent.pid(), which));
    let (memory, peak, maps) = (memory?, peak?, usage::locked(agent.pid())?);
    // It writes down what it knows.
    usage::wait_resting(agent.pid())?;
    let [status, peers] = ["status", "peers"].map(|command| shown(node, program, command));
    let (status, peers) = (status?, peers?);
    let changes = changes::measure(node, &mut agent, &*store, backend, leases)?;
    // One more than at the start: what left must be gone, and what joined must be there.
    let last = Lease::new(backend, leases);
    store.prepare(&last)?;
    store.join(&last)?;
    wait_peers(&mut agent, leases + 1)?;
    ensure_carries(node, backend, leases + 1)?;
    Ok(Sample { subnet_file, all_leases, cpu, memory, peak, maps, status, peers, changes })
}

/// Returns how long after the start the file exists.
fn appears(file: &Path, start: Instant) -> Result<Duration> {
    while !file.exists() {
        ensure!(start.elapsed() < PATIENCE, "there is no {}", file.display());
        thread::sleep(INTERVAL);
    }
    Ok(start.elapsed())
}

/// Returns how many milliseconds a subcommand takes that shows the state of the node: the median of some runs.
fn shown(node: &Node, program: &Path, subcommand: &str) -> Result<f64> {
    let run = |_| {
        let mut command = node.netns().command(program);
        command.arg(subcommand).arg("--subnet-file").arg(node.subnet_file());
        command.arg("--bpffs").arg(node.bpffs()?);
        let start = Instant::now();
        let output = command.output()?;
        let time = millis(start.elapsed());
        ensure!(output.status.success(), "{subcommand}: {output:?}");
        Ok(time)
    };
    Ok(median(&(0..RUNS).map(run).collect::<Result<Vec<_>>>()?))
}

/// Waits until the agent reports that kernel and maps have this many peers.
pub(super) fn wait_peers(agent: &mut Agent, count: u32) -> Result<()> {
    let end = format!("peers: {count}");
    agent.wait_status(|status| status.ends_with(&end), PATIENCE)
}

/// Fails unless routes, neighbours, FDB entries and the map have all leases, as the agent reports.
fn ensure_carries(node: &Node, backend: Backend, leases: u32) -> Result<()> {
    let lines = |command: &str, mark: &str| {
        anyhow::Ok(node.exec(command)?.lines().filter(|line| line.contains(mark)).count())
    };
    if backend == Backend::HostGw {
        let routes = lines("ip route show dev eth0", " via 172.")?;
        ensure!(routes == leases as usize, "there are {routes} routes, not {leases}");
        return Ok(());
    }
    let map = node.bpffs()?.join("flannel/1/LEASES");
    let map = format!("bpftool -j map dump pinned {}", map.display());
    let dump: Vec<serde_json::Value> = serde_json::from_str(&node.exec(&map)?)?;
    // The map also has the nodes' own addresses and this node.
    let subnets = dump.iter().filter(|entry| entry["formatted"]["value"]["flags"] == 0).count();
    let counts = [
        ("routes", lines("ip route show dev flannel.1", " onlink")?),
        ("neighbours", lines("ip -4 neigh show dev flannel.1", " PERMANENT")?),
        ("FDB entries", lines("bridge fdb show dev flannel.1", " dst ")?),
        ("subnets in LEASES", subnets),
    ];
    for (what, count) in counts {
        ensure!(count == leases as usize, "there are {count} {what}, not {leases}");
    }
    Ok(())
}
