//! `flannel-agent status` and `peers`: what they say of nodes that work and of nodes that do not.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::agent::subcommand;
use flannel_tests::traffic::ping;
use flannel_tests::wait::patiently;
use flannel_tests::{Agent, Cluster, Datastore as _, Node, TestResult, Topology};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::ipv6;
use crate::inspect::{DEVICE, UPLINK};
use crate::overlay::{NETWORK, Overlay};

/// Time limit for the agent to see and repair what a test does.
const SOON: Duration = Duration::from_secs(10);

/// Runs a subcommand on a node.
pub(crate) fn run(node: &Node, words: &[&str]) -> Result<Output> {
    let (name, words) = words.split_first().context("no subcommand")?;
    Ok(subcommand(node, name)?.args(words).output()?)
}

/// Returns the state of a node's only network, if it is this one by text, JSON and exit status.
fn state(node: &Node, wanted: &str, exit: i32) -> Result<Value> {
    let output = run(node, &["status", "--json"])?;
    let json: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    ensure!(json["schema"] == 1, "another schema: {json:#}");
    ensure!(json["state"] == wanted && output.status.code() == Some(exit), "{:?}: {json:#}", output.status);
    ensure!(output.stderr.is_empty(), "{output:?}");
    let networks = json["networks"].as_array().context("no networks")?;
    ensure!(networks.len() == 1 && networks[0]["state"] == wanted, "{json:#}");
    Ok(networks[0].clone())
}

/// Returns the text of the state, which has no colours here.
fn text(node: &Node) -> Result<String> {
    let output = run(node, &["status"])?;
    ensure!(output.stderr.is_empty() && !output.stdout.contains(&b'\x1b'), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Waits until the agent says that all is well.
fn wait_well(node: &Node) -> Result<Value> {
    patiently("all is well", SOON, || state(node, "well", 0))
}

/// Waits until what the agent knows is written down, with the other node in it.
fn wait_recorded(node: &Node, other: &Node) -> Result<()> {
    let known = node.subnet_file().with_extension("last-known.json");
    patiently("the other node is written down", SOON, || {
        let text = std::fs::read_to_string(&known)?;
        ensure!(text.contains(&format!("\"{}\"", other.ip())), "{text}");
        Ok(())
    })
}

/// Fails unless one of the reasons has these words.
fn ensure_because(network: &Value, words: &str) -> Result<()> {
    let reasons = network["reasons"].as_array().context("no reasons")?;
    let found = reasons.iter().any(|reason| reason["text"].as_str().is_some_and(|text| text.contains(words)));
    ensure!(found, "not because of {words:?}: {network:#}");
    Ok(())
}

/// Fails unless the node's only peer is the other node, by this way.
fn ensure_peer(overlay: &Overlay, network: &Value, way: &str) -> Result<()> {
    let (peer, peers) = (overlay.peer(1)?, network["peers"].as_array().context("no peers")?);
    ensure!(peers.len() == 1, "{peers:?}");
    let expected = [format!("{}/24", peer.base), peer.public_ip.to_string(), peer.mac, way.to_owned()];
    let found =
        ["subnet", "public_ip", "mac", "way"].map(|field| peers[0][field].as_str().unwrap_or_default());
    ensure!(found == expected.each_ref().map(String::as_str), "{found:?}, not {expected:?}");
    Ok(())
}

/// Fails unless the programs are attached where all packets pass, and packets were counted.
fn ensure_programs(network: &Value) -> Result<()> {
    let programs = network["programs"].as_array().context("no programs")?;
    for (name, interface) in [("overlay_egress", DEVICE), ("underlay_ingress", UPLINK)] {
        let program = programs.iter().find(|program| program["program"] == name).context(name)?;
        let interfaces = program["interfaces"].as_array().context("no interfaces")?;
        ensure!(
            interfaces.contains(&interface.into()) && program["missing"] == Value::Array(vec![]),
            "{program}"
        );
    }
    ensure!(network["dataplane"] == "bpf", "{network:#}");
    ensure!(network["traffic"]["programs"].as_u64() > Some(0), "{}", network["traffic"]);
    Ok(())
}

/// Starts an overlay whose pods have pinged each other, and whose first node has written down the second.
fn acquainted(flag: &str) -> Result<Overlay> {
    let overlay = Overlay::start(Topology::segment(2), &[flag; 2], 1)?;
    let (one, other) = overlay.two_pods();
    ping(one, other.ip())?;
    wait_recorded(&overlay.nodes()[0], &overlay.nodes()[1])?;
    Ok(overlay)
}

#[test]
fn a_node_that_works_says_how_and_what_was_repaired() -> TestResult {
    let overlay = acquainted("--dataplane=bpf")?;
    let node = &overlay.nodes()[0];
    let network = wait_well(node)?;
    ensure_peer(&overlay, &network, "vxlan")?;
    ensure_programs(&network)?;
    assert_eq!(network["network"], "vxlan 1");
    let report = &network["agent"]["report"];
    assert_eq!(report["pid"], overlay.agents[0].pid());
    assert_eq!((&report["ready"], &report["datastore"]["connected"]), (&true.into(), &true.into()));
    let left = report["lease"]["left"].as_u64().context("the lease has no end")?;
    assert!((86_000..=86_400).contains(&left), "{left}");
    let devices: Vec<_> =
        network["devices"].as_array().unwrap().iter().map(|device| &device["name"]).collect();
    assert_eq!(devices, [DEVICE, UPLINK]);
    let text = patiently("all is well in words", SOON, || {
        let text = text(node)?;
        ensure!(text.starts_with("vxlan 1      works\n"), "{text}");
        Ok(text)
    })?;
    let subnet = format!("{}/24 of 10.5.0.0/16, MTU 1450", overlay.base(0)?);
    for words in ["agent        runs for ", &subnet, ", ready\n", "1 vxlan\n"] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    let row = run(node, &["peers"])?;
    let (peer, row) = (overlay.peer(1)?, String::from_utf8(row.stdout)?);
    let words = [format!("{}/24", peer.base), peer.public_ip.to_string(), peer.mac, "vxlan".to_owned()];
    assert!(row.split_whitespace().eq(words.iter().map(String::as_str)), "{row}");
    let peers: Value = serde_json::from_slice(&run(node, &["peers", "--json"])?.stdout)?;
    assert_eq!((&peers["schema"], &peers["networks"][0]["peers"]), (&1.into(), &network["peers"]));

    node.exec(&format!("ip route del {}/24", peer.base))?;
    patiently("the repair is told", SOON, || {
        let network = state(node, "well", 0)?;
        let repairs = network["agent"]["report"]["repairs"].to_string();
        ensure!(repairs.contains("routes to peers had been changed"), "{repairs}");
        Ok(())
    })?;
    Ok(())
}

#[test]
fn without_its_agent_a_node_still_shows_peers_programs_and_counters() -> TestResult {
    let mut overlay = acquainted("--dataplane=bpf")?;
    wait_well(&overlay.nodes()[0])?;
    overlay.agents[0].kill()?;
    let node = &overlay.nodes()[0];
    let network = state(node, "degraded", 1)?;
    assert_eq!(network["agent"]["state"], "absent");
    ensure_because(&network, "the agent does not run")?;
    ensure_peer(&overlay, &network, "vxlan")?;
    ensure_programs(&network)?;
    let text = text(node)?;
    for words in
        ["agent        does not run\n", "datastore    etcd /coreos.com/network", "dataplane    bpf\n"]
    {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    node.exec(&format!("ip link set {DEVICE} down"))?;
    let network = state(node, "not-working", 2)?;
    ensure_because(&network, &format!("the vxlan device {DEVICE} is down"))?;
    node.exec(&format!("ip link del {DEVICE}"))?;
    let network = state(node, "not-working", 2)?;
    ensure_because(&network, &format!("the vxlan device {DEVICE} is missing"))?;
    // What was killed has left its socket, and the next agent takes its place.
    overlay.agents[0].restart()?;
    wait_well(&overlay.nodes()[0])?;
    let socket = overlay.nodes()[0].subnet_file().with_extension("sock");
    assert!(socket.exists());
    overlay.agents[0].term()?;
    assert!(!socket.exists(), "it stays when the agent has ended");
    Ok(())
}

#[test]
fn an_agent_that_hangs_is_told_from_one_that_is_gone() -> TestResult {
    let overlay = acquainted("--dataplane=bpf")?;
    let (node, agent) = (&overlay.nodes()[0], &overlay.agents[0]);
    wait_well(node)?;
    agent.signal(Signal::SIGSTOP)?;
    let stopped = state(node, "degraded", 1);
    let said = text(node);
    // Its name shows that it runs, as for an agent of an earlier version.
    let removed = std::fs::remove_file(node.subnet_file().with_extension("sock"));
    let without_socket = state(node, "degraded", 1);
    agent.signal(Signal::SIGCONT)?;
    let (network, text) = (stopped?, said?);
    removed?;
    let without_socket = without_socket?;
    assert_eq!(without_socket["agent"]["pid"], agent.pid());
    ensure_because(&without_socket, "the agent runs, but not on its socket")?;
    assert_eq!(
        (&network["agent"]["state"], &network["agent"]["pid"]),
        (&"silent".into(), &agent.pid().into())
    );
    ensure_because(&network, "the agent does not answer within 200 ms; the process is stopped")?;
    ensure_peer(&overlay, &network, "vxlan")?;
    ensure_programs(&network)?;
    let line = format!("agent        pid {} does not answer within 200 ms", agent.pid());
    assert!(text.contains(&line), "{text}");
    wait_well(node)?;
    Ok(())
}

#[test]
fn a_node_without_bpf_says_why() -> TestResult {
    let overlay = acquainted("--dataplane=netlink")?;
    let network = wait_well(&overlay.nodes()[0])?;
    ensure_peer(&overlay, &network, "floor")?;
    assert_eq!((&network["dataplane"], &network["traffic"]), (&"netlink".into(), &Value::Null));
    let why = network["without_bpf"].as_str().context("no reason")?;
    assert!(why.contains("was chosen (--dataplane"), "{why}");
    drop(overlay);

    let cluster = Cluster::segment(1)?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(NETWORK)?;
    let unable = ["sys_admin", "bpf", "perfmon"];
    let _agents = cluster.start_agents_with(&etcd, |agent| agent.without_capabilities(&unable))?;
    let network = patiently("the reason is told", SOON, || {
        let network = state(&cluster.nodes()[0], "degraded", 1)?;
        ensure_because(&network, "BPF is not available").map(|()| network)
    })?;
    assert_eq!(network["reasons"].as_array().map(Vec::len), Some(1), "{network:#}");
    assert_eq!(network["without_bpf"], network["reasons"][0]["text"]);
    Ok(())
}

#[test]
fn a_node_without_an_agent_or_a_datastore_does_not_work() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let node = &cluster.nodes()[0];
    let network = state(node, "not-working", 2)?;
    ensure_because(&network, "no agent has run here: there is no subnet in ")?;
    // Nothing listens there.
    let endpoint = format!("--etcd-endpoints=http://{}:1", node.ip());
    let _agent = Agent::builder(node).arg(endpoint).start()?;
    patiently("the agent says what it waits for", SOON, || {
        let network = state(node, "not-working", 2)?;
        ensure_because(&network, "the node has no subnet")?;
        ensure_because(&network, "the datastore has not answered since the agent's start")?;
        ensure_because(&network, "reading the network configuration")
    })?;
    Ok(())
}

#[test]
fn a_datastore_that_is_away_is_told_with_its_reason() -> TestResult {
    let overlay = acquainted("--dataplane=bpf")?;
    let Overlay { etcd, cluster, agents, pods } = overlay;
    let node = &cluster.nodes()[0];
    wait_well(node)?;
    drop(etcd);
    let network = patiently("the outage is told", SOON, || {
        let network = state(node, "degraded", 1)?;
        ensure_because(&network, "the datastore has not answered for ").map(|()| network)
    })?;
    assert_eq!(network["agent"]["report"]["datastore"]["connected"], false);
    ping(&pods[0][0], flannel_tests::Host::ip(&pods[1][0]))?;
    drop((pods, agents));
    Ok(())
}

/// Waits until all is well, and returns the ways to the other nodes.
fn wait_ways(node: &Node, wanted: &[&str]) -> Result<Value> {
    patiently("all peers have their ways", SOON, || {
        let network = state(node, "well", 0)?;
        let peers = network["peers"].as_array().context("no peers")?;
        let ways: Vec<_> = peers.iter().filter_map(|peer| peer["way"].as_str()).collect();
        ensure!(ways == wanted, "{peers:?}");
        Ok(network)
    })
}

#[test]
fn each_backend_and_family_has_its_way() -> TestResult {
    let of = |backend: &str| NETWORK.replace(r#""Type":"vxlan""#, backend);
    for (network, ways, name) in [
        (of(r#""Type":"vxlan","DirectRouting":true"#), &["on-link"][..], "vxlan 1"),
        (of(r#""Type":"host-gw""#), &["on-link"], "host-gw 10.5.0.0/16"),
        (ipv6::DUAL.to_owned(), &["vxlan"; 2], "vxlan 1"),
        (of(r#""Type":"udp""#), &["udp"], "udp 10.5.0.0/16"),
    ] {
        let cluster = Cluster::segment(2)?;
        let etcd = cluster.start_etcd()?;
        etcd.configure(&network)?;
        let mut agents = cluster.start_agents_with(&etcd, |agent| agent)?;
        let node = &cluster.nodes()[0];
        let found = wait_ways(node, ways)?;
        assert_eq!(found["network"], name);
        wait_recorded(node, &cluster.nodes()[1])?;
        agents[0].kill()?;
        // The agent itself carries the packets of udp.
        let (state_without, exit) = if ways == ["udp"] { ("not-working", 2) } else { ("degraded", 1) };
        let found = state(node, state_without, exit)?;
        assert_eq!(found["network"], name);
        assert_eq!(found["peers"].as_array().map(Vec::len), Some(ways.len()));
    }
    Ok(())
}

#[test]
fn each_network_of_a_node_has_its_part() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let node = &cluster.nodes()[0];
    let mut agents = Vec::new();
    let mut stores = Vec::new();
    for vni in [7, 8] {
        let name = format!("net{vni}");
        let store = cluster.local_store(&name)?;
        let backend = format!(r#"{{"Type":"vxlan","VNI":{vni}}}"#);
        store.configure(&format!(r#"{{"Network":"10.{vni}.0.0/16","Backend":{backend}}}"#))?;
        let mut agent = Agent::builder(node).store(&store).for_network(&name).start()?;
        agent.wait_ready()?;
        agents.push(agent);
        stores.push(store);
    }
    let states = || {
        let output = run(node, &["status", "--json"])?;
        let json: Value = serde_json::from_slice(&output.stdout)?;
        let networks = json["networks"].as_array().context("no networks")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let states = networks.iter().map(|network| (text(&network["network"]), text(&network["state"])));
        Ok::<_, anyhow::Error>((states.collect::<Vec<_>>(), output.status.code()))
    };
    let expected = |first: &str, second: &str, exit| {
        let network = |vni, state: &str| (format!("vxlan {vni}"), state.to_owned());
        (vec![network(7, first), network(8, second)], Some(exit))
    };
    patiently("both networks are well", SOON, || {
        let states = states()?;
        ensure!(states == expected("well", "well", 0), "{states:?}");
        Ok(())
    })?;
    agents[1].kill()?;
    assert_eq!(states()?, expected("well", "degraded", 1));
    Ok(())
}
