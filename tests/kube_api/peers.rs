//! Nodes that another flannel runs on: a real flanneld on Linux, and flannel on Windows.

use anyhow::ensure;
use flannel_tests::{Cluster, Datastore as _, TestResult, eventually};

use super::bed::{Bed, NETLINK, SOON, as_flanneld, register};
use crate::inspect::Peer;
use crate::overlay::wait_logged;

#[test]
fn a_node_of_flanneld_is_reached_as_its_annotations_say() -> TestResult {
    let bed = Bed::start(2, NETLINK)?;
    let peers = [Peer::fictional(120), Peer::fictional(121)];
    register(&bed.store, "linux-a", &peers[0])?;
    register(&bed.store, "linux-b", &peers[1])?;
    bed.wait_joined(&peers)?;
    // flanneld of other versions writes no VNI, or more fields.
    let data = format!(r#"{{"VtepMAC":"{}"}}"#, peers[0].mac);
    bed.store.annotate("linux-a", &[("backend-data", Some(&data))])?;
    let moved = Peer { public_ip: [192, 168, 64, 99].into(), ..peers[1].clone() };
    bed.store.annotate("linux-b", &[("public-ip", Some("192.168.64.99"))])?;
    bed.wait_joined(&[peers[0].clone(), moved])?;
    Ok(())
}

#[test]
fn a_windows_node_is_reached_once_it_has_its_mac() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let store = cluster.kube_store()?;
    // The VNI and port that Windows needs.
    store.configure(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":4096,"Port":4789}}"#)?;
    store.add_node("node1", &["10.5.1.0/24"])?;
    let agents = cluster.start_agents_with(&store, |agent| agent.arg(NETLINK))?;
    let no_mac_yet = r#"{"VNI":4096,"VtepMAC":""}"#;
    store.add_annotated_node("windows", &["10.5.50.0/24"], &as_flanneld(no_mac_yet, "192.168.64.50"))?;
    register_ready(&store)?;
    let node = &cluster.nodes()[0];
    let known = |part: &str| {
        eventually(part, SOON, || {
            let fdb = node.exec("bridge fdb show dev flannel.4096")?;
            ensure!(fdb.contains(part), "{fdb}");
            Ok(())
        })
    };
    known("00:15:5d:64:32:02 dst 192.168.64.51")?;
    let data = r#"{"VNI":4096,"VtepMAC":"00:15:5d:64:32:01"}"#;
    store.annotate("windows", &[("backend-data", Some(data))])?;
    known("00:15:5d:64:32:01 dst 192.168.64.50")?;
    super::bed::ensure_not_logged(&agents[0], "WARN", "windows")?;
    Ok(())
}

/// Registers a Windows node that has its MAC already.
fn register_ready(store: &flannel_tests::kubernetes::KubeStore) -> anyhow::Result<()> {
    let data = r#"{"VNI":4096,"VtepMAC":"00:15:5d:64:32:02"}"#;
    store.add_annotated_node("windows-ready", &["10.5.51.0/24"], &as_flanneld(data, "192.168.64.51"))
}

#[test]
fn a_node_with_another_backend_is_named_and_does_no_harm() -> TestResult {
    let bed = Bed::start(2, NETLINK)?;
    let annotations = [
        ("backend-data", "null"),
        ("backend-type", "host-gw"),
        ("kube-subnet-manager", "true"),
        ("public-ip", "192.168.64.9"),
    ];
    bed.store.add_annotated_node("host-gw", &["10.5.100.0/24"], &annotations)?;
    wait_logged(&bed.agents[0], "WARN", &[&bed.store.name_of("host-gw"), "host-gw"])?;
    bed.ensure_follows()?;
    Ok(())
}
