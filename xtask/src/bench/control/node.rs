//! One node, one etcd full of leases, one agent, and a watch on the clock.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flannel_tests::{Agent, Cluster, Etcd, Node};

use super::sample::Sample;
use crate::bench::crowd::{self, Carrier, NETWORK};
use crate::bench::series::median;

/// Leases that come while the agent runs.
pub(super) const NEWCOMERS: u32 = 20;
/// Far above what anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks for a file.
const LOOK: Duration = Duration::from_micros(200);

/// Starts an agent among so many leases and takes its time.
pub(super) fn measure(program: &Path, carrier: Carrier, leases: u32) -> Result<Sample> {
    let cluster = Cluster::segment(1)?;
    let node = cluster.nodes().first().context("no node")?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(&format!(r#"{{"Network":"{NETWORK}","Backend":{{"Type":"{}"}}}}"#, carrier.name()))?;
    crowd::fill(&etcd, carrier, leases)?;
    // All peers are on the link.
    node.exec("ip address add 172.31.255.254/12 dev eth0")?;

    let start = Instant::now();
    let mut agent = Agent::builder(node).etcd(&etcd).program(program).start()?;
    let subnet_file = appears(&node.subnet_file(), start)?;
    agent.wait_status(|status| status.ends_with(&peers(leases)), PATIENCE)?;
    let all_leases = start.elapsed();
    let cpu = cpu(agent.pid())?;
    let [memory, peak] = [memory(agent.pid(), "VmRSS:")?, memory(agent.pid(), "VmHWM:")?];
    let new_lease = newcomers(&mut agent, &etcd, carrier, leases)?;
    ensure_carries(node, carrier, leases + NEWCOMERS)?;
    Ok(Sample { subnet_file, all_leases, cpu, memory, peak, new_lease })
}

/// How long after the start the file is there.
fn appears(file: &Path, start: Instant) -> Result<Duration> {
    while !file.exists() {
        ensure!(start.elapsed() < PATIENCE, "there is no {}", file.display());
        thread::sleep(LOOK);
    }
    Ok(start.elapsed())
}

/// The agent says how many peers it serves once kernel and maps have them.
fn peers(count: u32) -> String {
    format!("peers: {count}")
}

/// The median time of a new lease.
fn newcomers(agent: &mut Agent, etcd: &Etcd, carrier: Carrier, leases: u32) -> Result<Duration> {
    let mut times = Vec::new();
    for number in leases..leases + NEWCOMERS {
        let (key, value) = crowd::lease(carrier, number);
        let start = Instant::now();
        etcd.put(&key, &value)?;
        agent.wait_status(|status| status.ends_with(&peers(number + 1)), PATIENCE)?;
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(Duration::from_secs_f64(median(&times)))
}

/// What it says must be so: routes, neighbours, FDB entries and the map hold them all.
fn ensure_carries(node: &Node, carrier: Carrier, leases: u32) -> Result<()> {
    let lines = |command: &str, mark: &str| {
        anyhow::Ok(node.exec(command)?.lines().filter(|line| line.contains(mark)).count())
    };
    if carrier == Carrier::HostGw {
        let routes = lines("ip route show dev eth0", " via 172.")?;
        ensure!(routes == leases as usize, "there are {routes} routes, not {leases}");
        return Ok(());
    }
    let map = node.bpffs()?.join("flannel/1/LEASES");
    let map = format!("bpftool -j map dump pinned {}", map.display());
    let dump: Vec<serde_json::Value> = serde_json::from_str(&node.exec(&map)?)?;
    // The map has the nodes' own addresses too, and us.
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

/// What all of its threads have had of the CPUs. The first number of schedstat is nanoseconds.
fn cpu(pid: u32) -> Result<Duration> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        nanoseconds += text.split(' ').next().context("schedstat is empty")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Resident memory, now (`VmRSS:`) or at its peak (`VmHWM:`), in bytes.
fn memory(pid: u32, which: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line =
        status.lines().find_map(|line| line.strip_prefix(which)).with_context(|| format!("no {which}"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}
