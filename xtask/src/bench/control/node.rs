//! Measures one agent on one node, with one datastore full of leases.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flannel_tests::{Agent, Cluster, Node};

use super::changes;
use super::sample::Sample;
use super::store::Programs;
use crate::bench::crowd::{Backend, Lease};

/// Limit of every step, far above what any takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// Interval of looking for a file.
const INTERVAL: Duration = Duration::from_micros(200);

/// Starts an agent among this many leases and measures it.
pub(super) fn measure(agent: &Path, datastore: &Programs, backend: Backend, leases: u32) -> Result<Sample> {
    let cluster = Cluster::segment(1)?;
    let node = cluster.nodes().first().context("no node")?;
    let store = datastore.start(&cluster, backend, leases)?;
    // All peers are on the link.
    node.exec("ip address add 172.31.255.254/12 dev eth0")?;

    let start = Instant::now();
    let mut agent = Agent::builder(node).store(store.datastore()).program(agent).start()?;
    let subnet_file = appears(&node.subnet_file(), start)?;
    wait_peers(&mut agent, leases)?;
    let all_leases = start.elapsed();
    let cpu = cpu(agent.pid())?;
    let [memory, peak] = [memory(agent.pid(), "VmRSS:")?, memory(agent.pid(), "VmHWM:")?];
    let changes = changes::measure(node, &mut agent, &*store, backend, leases)?;
    // One more than at the start: what left must be gone, and what joined must be there.
    let last = Lease::new(backend, leases);
    store.prepare(&last)?;
    store.join(&last)?;
    wait_peers(&mut agent, leases + 1)?;
    ensure_carries(node, backend, leases + 1)?;
    Ok(Sample { subnet_file, all_leases, cpu, memory, peak, changes })
}

/// Returns how long after the start the file exists.
fn appears(file: &Path, start: Instant) -> Result<Duration> {
    while !file.exists() {
        ensure!(start.elapsed() < PATIENCE, "there is no {}", file.display());
        thread::sleep(INTERVAL);
    }
    Ok(start.elapsed())
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

/// Returns the CPU time of all threads. The first number of schedstat is nanoseconds.
fn cpu(pid: u32) -> Result<Duration> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        nanoseconds += text.split(' ').next().context("schedstat is empty")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Returns resident memory in bytes, now (`VmRSS:`) or at its peak (`VmHWM:`).
fn memory(pid: u32, which: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line =
        status.lines().find_map(|line| line.strip_prefix(which)).with_context(|| format!("no {which}"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}
