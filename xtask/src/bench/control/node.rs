//! Measures one agent on one node, with one etcd full of leases.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flannel_tests::{Agent, Cluster, Etcd, Node};

use super::sample::Sample;
use crate::bench::crowd::{self, Backend, NETWORK};
use crate::bench::series::median;

/// Number of leases that are added while the agent runs.
pub(super) const NEWCOMERS: u32 = 20;
/// Limit of every step, far above what any takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// Interval of looking for a file.
const INTERVAL: Duration = Duration::from_micros(200);

/// Starts an agent among this many leases and measures it.
pub(super) fn measure(program: &Path, backend: Backend, leases: u32) -> Result<Sample> {
    let cluster = Cluster::segment(1)?;
    let node = cluster.nodes().first().context("no node")?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(&format!(r#"{{"Network":"{NETWORK}","Backend":{{"Type":"{}"}}}}"#, backend.name()))?;
    crowd::fill(&etcd, backend, leases)?;
    // All peers are on the link.
    node.exec("ip address add 172.31.255.254/12 dev eth0")?;

    let start = Instant::now();
    let mut agent = Agent::builder(node).etcd(&etcd).program(program).start()?;
    let subnet_file = appears(&node.subnet_file(), start)?;
    agent.wait_status(|status| status.ends_with(&peers(leases)), PATIENCE)?;
    let all_leases = start.elapsed();
    let cpu = cpu(agent.pid())?;
    let [memory, peak] = [memory(agent.pid(), "VmRSS:")?, memory(agent.pid(), "VmHWM:")?];
    let new_lease = newcomers(&mut agent, &etcd, backend, leases)?;
    ensure_carries(node, backend, leases + NEWCOMERS)?;
    Ok(Sample { subnet_file, all_leases, cpu, memory, peak, new_lease })
}

/// Returns how long after the start the file exists.
fn appears(file: &Path, start: Instant) -> Result<Duration> {
    while !file.exists() {
        ensure!(start.elapsed() < PATIENCE, "there is no {}", file.display());
        thread::sleep(INTERVAL);
    }
    Ok(start.elapsed())
}

/// Returns the end of the status that the agent reports once kernel and maps have this many peers.
fn peers(count: u32) -> String {
    format!("peers: {count}")
}

/// Returns the median time of a new lease.
fn newcomers(agent: &mut Agent, etcd: &Etcd, backend: Backend, leases: u32) -> Result<Duration> {
    let mut times = Vec::new();
    for number in leases..leases + NEWCOMERS {
        let (key, value) = crowd::lease(backend, number);
        let start = Instant::now();
        etcd.put(&key, &value)?;
        agent.wait_status(|status| status.ends_with(&peers(number + 1)), PATIENCE)?;
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(Duration::from_secs_f64(median(&times)))
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
