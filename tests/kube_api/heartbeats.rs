//! What kubelets write every few seconds changes nothing.

use anyhow::ensure;
use flannel_tests::kubernetes::KubeStore;
use flannel_tests::{Cluster, Datastore as _, TestResult, eventually};

use super::bed::{NETLINK, NETWORK, SOON, register};
use crate::endpoint::{Figures, with_endpoint};
use crate::inspect::Peer;

const NODES: u32 = 500;

fn name(number: u32) -> String {
    format!("many-{number}")
}

/// Registers a node of flannel with a /24 of 10.`6 + number / 250`.
fn add(store: &KubeStore, number: u32) -> anyhow::Result<()> {
    let (block, subnet) = (6 + number / 250, number % 250);
    let data = format!(r#"{{"VNI":1,"VtepMAC":"c6:d2:32:6f:{block:02x}:{subnet:02x}"}}"#);
    let annotations = super::bed::as_flanneld(&data, "192.168.64.200");
    store.add_annotated_node(&name(number), &[&format!("10.{block}.{subnet}.0/24")], &annotations)
}

#[test]
fn heartbeats_of_500_nodes_write_nothing_to_the_kernel() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let store = cluster.kube_store()?;
    store.configure(&NETWORK.replace("10.5.0.0/16", "10.0.0.0/8"))?;
    store.add_node("node1", &["10.5.1.0/24"])?;
    (0..NODES).try_for_each(|number| add(&store, number))?;
    let agents = cluster.start_agents_with(&store, |agent| with_endpoint(agent.arg(NETLINK)))?;
    let node = &cluster.nodes()[0];
    let leases = |wanted: f64| {
        eventually("the agent knows all nodes", SOON, || {
            let leases = Figures::of(node)?.get("flannel_leases")?;
            ensure!(leases == wanted, "it knows {leases}");
            Ok(())
        })
    };
    leases(f64::from(NODES))?;
    let requests = r#"flannel_datastore_request_duration_seconds_count{result="answered"}"#;
    assert!(
        Figures::of(node)?.get(requests)? > 2.0,
        "the own Node was read and written, and all Nodes listed"
    );
    let writes = || Figures::of(node)?.sum("flannel_reconcile_actions_total");
    let before = writes()?;
    (0..NODES).try_for_each(|number| store.client().heartbeat(&store.name_of(&name(number)), number))?;
    // A change behind the last heartbeat shows that the agent has seen them all.
    register(&store, "marker", &Peer::fictional(90))?;
    leases(f64::from(NODES + 1))?;
    let written = writes()? - before;
    assert_eq!(written, 3.0, "route, neighbour and FDB entry of the last node, and nothing else");
    drop(agents);
    Ok(())
}
