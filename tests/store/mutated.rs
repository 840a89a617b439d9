//! Thousands of mutated leases and configurations through running agents: none ends, none believes what it must not, and good leases stay as
//! they are.

mod judge;
mod mutation;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, ensure};
use fastrand::Rng;
use flannel_tests::etcd::PREFIX;
use flannel_tests::{Agent, Cluster, Datastore as _, TestResult, Topology, eventually};

use crate::inspect::{self, Peer};
use crate::overlay::{NETWORK, Overlay, lines_of};

/// What mutations are made from: they are the same in each run.
const SEED: u64 = 96;
const LEASES: usize = 10_000;
const CONFIGS: usize = 300;
/// Configurations of which the agent reads one, or some.
const PAUSE: Duration = Duration::from_millis(10);
/// Time limit for all leases to be followed, in a debug build.
const FOLLOW: Duration = Duration::from_secs(30);
/// Words of the warnings about an entry, and about two entries with one MAC.
const EXPECTED: [&str; 2] = [" not used: ", " have one VTEP MAC, "];

/// The values that were written under each key, the newest one last.
type Written = BTreeMap<String, Vec<String>>;

/// Waits until the agents have read everything that was written before: they know a lease that is written now.
fn ensure_read(overlay: &Overlay, last: &Peer) -> Result<()> {
    overlay.etcd.put(&last.key(), &last.value())?;
    for node in overlay.nodes() {
        eventually("the last lease is followed", FOLLOW, || inspect::ensure_has(node, last))?;
    }
    Ok(())
}

#[test]
fn ten_thousand_mutated_leases_harm_no_agent_and_no_good_lease() -> TestResult {
    println!("seed {SEED}");
    let mut random = Rng::with_seed(SEED);
    // Leases that vanish together would stay for some minutes.
    let flags = ["--dataplane=bpf"; 2];
    let mut overlay =
        Overlay::start_with(Topology::segment(2), &flags, 1, |agent| agent.arg("--lease-hold=0"))?;
    let streams = overlay.streams()?;
    let pids: Vec<_> = overlay.agents.iter().map(Agent::pid).collect();
    let [good, last] = [Peer::fictional(64), Peer::fictional(65)];
    ensure_read(&overlay, &good)?;
    let own: Vec<_> = (0..2).map(|node| overlay.peer(node)).collect::<Result<_>>()?;
    let untouched: Vec<_> = own.iter().chain([&good, &last]).map(Peer::name).collect();

    let mut written = Written::new();
    let mut entries = Vec::with_capacity(LEASES);
    while entries.len() < LEASES {
        let (key, value) = mutation::lease(&mut random);
        if !untouched.contains(&key) {
            written.entry(key.clone()).or_default().push(value.clone());
            entries.push((format!("{PREFIX}/subnets/{key}"), value));
        }
    }
    // etcd takes no key twice in one transaction.
    for part in parts(&entries) {
        overlay.etcd.kv().put_all(part)?;
    }
    ensure_read(&overlay, &last)?;
    for (node, other) in [(0, 1), (1, 0)] {
        let known = &overlay.nodes()[node];
        for peer in [&own[other], &good, &last] {
            inspect::ensure_has(known, peer)?;
        }
        let floor = inspect::floor(known)?;
        let believed = judge::ensure_all_valid(&floor, &written, &[&own[other], &good, &last])?;
        assert!(believed > 0, "no mutated lease is valid: the mutations are too large");
    }
    for agent in &overlay.agents {
        let log = agent.log();
        let warnings = lines_of(&log, "WARN");
        let is_expected = |line: &String| EXPECTED.iter().any(|words| line.contains(words));
        let others: Vec<_> = warnings.iter().filter(|line| !is_expected(line)).collect();
        assert!(others.is_empty(), "warnings about something else: {others:#?}");
        assert!(warnings.len() <= LEASES, "{} warnings for {LEASES} entries", warnings.len());
        judge::ensure_whole_lines(&log)?;
    }

    let keys: Vec<_> = written.keys().map(|key| format!("{PREFIX}/subnets/{key}")).collect();
    overlay.etcd.kv().delete_all(&keys)?;
    for (node, other) in [(0, 1), (1, 0)] {
        let peers = [own[other].clone(), good.clone(), last.clone()];
        eventually("only good leases are left", FOLLOW, || {
            inspect::ensure_knows(&overlay.nodes()[node], &peers)
        })?;
    }
    streams.ensure_whole()?;
    for (agent, pid) in overlay.agents.iter_mut().zip(pids) {
        agent.ensure_running()?;
        assert!(agent.pid() == pid, "an agent was started again");
        assert!(!agent.log().contains("panicked"), "a panic: {}", agent.log());
    }
    Ok(())
}

/// Divides entries so that no part has a key twice.
fn parts(entries: &[(String, String)]) -> Vec<&[(String, String)]> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let mut keys = BTreeSet::new();
    for (at, (key, _)) in entries.iter().enumerate() {
        if !keys.insert(key) {
            parts.push(&entries[start..at]);
            start = at;
            keys.clear();
            keys.insert(key);
        }
    }
    parts.push(&entries[start..]);
    parts
}

#[test]
fn mutated_configurations_are_refused_and_the_one_before_stays() -> TestResult {
    println!("seed {SEED}");
    let mut random = Rng::with_seed(SEED);
    let cluster = Cluster::segment(1)?;
    let store = cluster.local_store("leases")?;
    store.configure(NETWORK)?;
    let node = &cluster.nodes()[0];
    let mut agent = Agent::builder(node).store(&store).arg("--dataplane=netlink").start()?;
    let env = agent.wait_ready()?;
    let pid = agent.pid();
    let peer = Peer::fictional(66);
    store.put(&peer.name(), &peer.value())?;
    eventually("a lease is followed", FOLLOW, || inspect::ensure_knows(node, std::slice::from_ref(&peer)))?;
    for _ in 0..CONFIGS {
        store.configure(&mutation::config(&mut random, NETWORK))?;
        std::thread::sleep(PAUSE);
    }
    store.configure("{")?;
    eventually("the agent says what is wrong", FOLLOW, || {
        let errors = lines_of(&agent.log(), "ERROR");
        ensure!(errors.iter().any(|line| line.contains("not a JSON object")), "{errors:#?}");
        Ok(())
    })?;
    judge::ensure_whole_lines(&agent.log())?;
    let lines = agent.log().lines().count();
    assert!(lines < 4 * CONFIGS, "{lines} lines for {CONFIGS} configurations");
    inspect::ensure_knows(node, std::slice::from_ref(&peer))?;
    store.configure(NETWORK)?;
    let late = Peer::fictional(67);
    store.put(&late.name(), &late.value())?;
    eventually("leases are still followed", FOLLOW, || {
        inspect::ensure_knows(node, &[peer.clone(), late.clone()])
    })?;
    agent.ensure_running()?;
    assert!(agent.pid() == pid, "the agent was started again");
    assert!(node.subnet_env()?.subnet == env.subnet, "another subnet");
    Ok(())
}
