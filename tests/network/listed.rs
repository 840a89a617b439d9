//! `flannel-agent leases` shows what the datastore has, and until when.

use std::fs;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use flannel_tests::wait::patiently;
use flannel_tests::{AgentBuilder, Cluster, Datastore as _, Node, TestResult, Topology};
use serde_json::{Value, json};

use super::status::run;
use crate::inspect::Peer;
use crate::overlay::{NETWORK, Overlay};

/// Time limit for the agent to write down what it has read.
const SOON: Duration = Duration::from_secs(10);
const HOUR: u64 = 3600;

/// Returns the node's only network, as JSON.
fn listed(node: &Node) -> Result<Value> {
    let output = run(node, &["leases", "--json"])?;
    ensure!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let json: Value = serde_json::from_slice(&output.stdout)?;
    ensure!(json["schema"] == 1, "another schema: {json:#}");
    let networks = json["networks"].as_array().context("no networks")?;
    ensure!(networks.len() == 1, "{json:#}");
    Ok(networks[0].clone())
}

fn text(node: &Node) -> Result<String> {
    Ok(String::from_utf8(run(node, &["leases"])?.stdout)?)
}

/// Returns the lease of a node.
fn of<'a>(network: &'a Value, peer: &Peer) -> Result<&'a Value> {
    let subnet = json!([format!("{}/24", peer.base)]);
    let leases = network["leases"].as_array().context("no leases")?;
    let lease = leases.iter().find(|lease| lease["subnets"] == subnet);
    let lease = lease.with_context(|| format!("no {subnet} in {network:#}"))?;
    ensure!(lease["public_ips"] == json!([peer.public_ip]) && lease["backend_type"] == "vxlan", "{lease:#}");
    ensure!(lease["backend_data"]["VNI"] == 1, "{lease:#}");
    let mac = lease["backend_data"]["VtepMAC"].as_str().map(str::to_lowercase);
    ensure!(mac.as_deref() == Some(&*peer.mac), "{lease:#}");
    Ok(lease)
}

/// Fails unless the lease ends about then, unless it is renewed.
fn ensure_ends(lease: &Value, hours: u64) -> Result<()> {
    let left = lease["end"]["left"].as_u64().with_context(|| format!("no end: {lease:#}"))?;
    let expected = hours * HOUR;
    ensure!(lease["end"]["state"] == "ends" && (expected - 600..=expected).contains(&left), "{lease:#}");
    Ok(())
}

#[test]
fn leases_in_etcd_are_shown_with_those_that_are_held_and_also_without_the_agent() -> TestResult {
    let hold = |agent: AgentBuilder| agent.arg("--lease-hold=600");
    let mut overlay = Overlay::start_with(Topology::segment(2), &["--dataplane=bpf"; 2], 1, hold)?;
    let (own, peer) = (overlay.peer(0)?, overlay.peer(1)?);
    let fictional: Vec<Peer> = (90..95).map(Peer::fictional).collect();
    fictional.iter().try_for_each(|peer| overlay.etcd.put(&peer.key(), &peer.value()))?;
    patiently("all leases are listed", SOON, || {
        let network = listed(&overlay.nodes()[0])?;
        ensure!(network["agent"] == "answers" && network["datastore"] == "etcd /coreos.com/network");
        ensure!(network["leases"].as_array().map(Vec::len) == Some(7), "{network:#}");
        ensure_ends(of(&network, &own)?, 24)?;
        ensure!(of(&network, &own)?["own"] == true && of(&network, &peer)?["own"] == false);
        ensure!(of(&network, &peer)?["end"] == json!({"state": "within", "left": 24 * HOUR}), "{network:#}");
        // Who writes without a lease of etcd makes a reservation.
        fictional.iter().try_for_each(|peer| {
            let end = &of(&network, peer)?["end"]["state"];
            ensure!(end == "never", "{end}");
            Ok(())
        })
    })?;
    fictional.iter().try_for_each(|peer| overlay.etcd.delete(&peer.key()))?;
    patiently("those that vanished together are held", SOON, || {
        let network = listed(&overlay.nodes()[0])?;
        for peer in &fictional {
            let lease = of(&network, peer)?;
            let held = lease["held"].as_u64().with_context(|| format!("not held: {lease:#}"))?;
            ensure!(held <= 600 && lease["end"]["state"] == "gone", "{lease:#}");
        }
        ensure!(of(&network, &peer)?["held"].is_null(), "{network:#}");
        let text = text(&overlay.nodes()[0])?;
        let lines = text.lines().filter(|line| line.contains("not in the datastore, held for "));
        ensure!(lines.count() == fictional.len() && text.lines().count() == 7, "{text}");
        Ok(())
    })?;

    overlay.agents[0].kill()?;
    let node = &overlay.nodes()[0];
    let file = node.subnet_file().with_extension("last-known.json");
    let said = text(node)?;
    let from = format!("the agent does not run; as {} had them ", file.display());
    assert!(said.starts_with(&from), "{said}");
    let network = listed(node)?;
    assert_eq!(network["source"]["kind"], "file");
    assert_eq!(of(&network, &own)?["end"]["state"], "unknown");
    assert_eq!(of(&network, &peer)?["end"]["state"], "within");
    // Without the file there are the maps.
    fs::remove_file(&file)?;
    let network = listed(node)?;
    assert_eq!(network["source"]["kind"], "maps");
    assert_eq!(of(&network, &own)?["own"], true);
    assert_eq!(of(&network, &peer)?["end"]["state"], "unknown");
    Ok(())
}

#[test]
fn leases_in_files_end_a_day_after_the_time_of_the_file_and_reservations_never() -> TestResult {
    let cluster = Cluster::segment(2)?;
    let store = cluster.local_store("store")?;
    store.configure(NETWORK)?;
    let mut agents = cluster.start_agents_with(&store, |agent| agent)?;
    let (own, peer) = (Peer::of(&cluster.nodes()[0])?, Peer::of(&cluster.nodes()[1])?);
    let node = &cluster.nodes()[0];
    let reserved = Peer::fictional(90);
    store.put_whole(&reserved.name(), &reserved.value())?;
    // As if it had been renewed 11 hours ago.
    store.set_time(&peer.name(), SystemTime::now() - Duration::from_secs(11 * HOUR))?;
    let ensure_others = |network: &Value| {
        ensure_ends(of(network, &peer)?, 13)?;
        ensure!(of(network, &reserved)?["end"] == json!({"state": "never"}), "{network:#}");
        ensure!(network["leases"].as_array().map(Vec::len) == Some(3), "{network:#}");
        Ok(())
    };
    patiently("the ends are listed", SOON, || {
        let network = listed(node)?;
        ensure_ends(of(&network, &own)?, 24)?;
        ensure_others(&network)
    })?;
    agents[0].kill()?;
    let network = listed(node)?;
    assert_eq!(network["agent"], "does not run");
    ensure_others(&network)?;
    Ok(())
}

#[test]
fn where_no_agent_has_run_no_leases_are_known() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let node = &cluster.nodes()[0];
    assert_eq!(text(node)?, "the agent does not run; no leases are known\n");
    assert_eq!(listed(node)?["leases"], json!([]));
    Ok(())
}
