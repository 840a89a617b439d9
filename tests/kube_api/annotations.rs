//! What an agent writes on its Node, and what it reads there.

use anyhow::{Context as _, Result};
use flannel_tests::kubernetes::KubeStore;
use flannel_tests::{Agent, Cluster, Datastore as _, TestResult, eventually};
use serde_json::json;

use super::bed::{Bed, NETLINK, NETWORK, SOON};
use crate::inspect::{self, DEVICE};

/// A node with podCIDR 10.5.1.0/24, and no agent yet.
fn one_node() -> Result<(KubeStore, Cluster)> {
    let cluster = Cluster::segment(1)?;
    let store = cluster.kube_store()?;
    store.configure(NETWORK)?;
    store.add_node("node1", &["10.5.1.0/24"])?;
    Ok((store, cluster))
}

fn start(store: &KubeStore, cluster: &Cluster) -> Result<Agent> {
    let mut agent = Agent::builder(&cluster.nodes()[0]).store(store).arg(NETLINK).start()?;
    agent.wait_ready()?;
    Ok(agent)
}

fn value(annotations: &[(String, String)], name: &str) -> Result<String> {
    let found = annotations.iter().find(|(known, _)| known == name);
    found.map(|(_, value)| value.clone()).with_context(|| format!("no annotation {name} in {annotations:?}"))
}

#[test]
fn annotations_have_flannels_names_and_texts() -> TestResult {
    let (store, cluster) = one_node()?;
    let _agent = start(&store, &cluster)?;
    let mac = inspect::link(&cluster.nodes()[0], DEVICE)?.mac;
    let expected = [
        ("backend-data", format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#)),
        ("backend-type", "vxlan".to_owned()),
        ("kube-subnet-manager", "true".to_owned()),
        ("public-ip", "192.168.64.1".to_owned()),
    ];
    assert_eq!(store.annotations("node1")?, expected.map(|(name, value)| (name.to_owned(), value)));
    Ok(())
}

#[test]
fn annotations_of_both_families_have_flannels_names_and_texts() -> TestResult {
    let (store, cluster) = one_node()?;
    store.configure(
        r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd44::/48","Backend":{"Type":"vxlan"}}"#,
    )?;
    store.delete_node("node1")?;
    store.add_node("node1", &["10.5.1.0/24", "fd44:0:0:1::/64"])?;
    let _agent = start(&store, &cluster)?;
    let node = &cluster.nodes()[0];
    let mac = inspect::link(node, "flannel-v6.1")?.mac;
    let annotations = store.annotations("node1")?;
    assert_eq!(value(&annotations, "backend-v6-data")?, format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#));
    assert_eq!(value(&annotations, "public-ipv6")?, node.ip6().to_string());
    Ok(())
}

#[test]
fn the_mac_in_the_annotation_is_used_by_a_new_device() -> TestResult {
    const MAC: &str = "c6:d2:32:6f:8f:44";
    let (store, cluster) = one_node()?;
    store.annotate(
        "node1",
        &[
            ("kube-subnet-manager", Some("true")),
            ("backend-type", Some("vxlan")),
            ("backend-data", Some(&format!(r#"{{"VNI":1,"VtepMAC":"{MAC}"}}"#))),
            ("public-ip", Some("192.168.64.1")),
        ],
    )?;
    let mut agent = start(&store, &cluster)?;
    let node = &cluster.nodes()[0];
    assert_eq!(inspect::link(node, DEVICE)?.mac, MAC);
    agent.kill()?;
    node.exec(&format!("ip link delete {DEVICE}"))?;
    agent.restart()?;
    assert_eq!(inspect::link(node, DEVICE)?.mac, MAC, "after a restart without the device");
    Ok(())
}

#[test]
fn an_overwritten_public_ip_is_what_other_nodes_use() -> TestResult {
    let (store, cluster) = one_node()?;
    store.annotate("node1", &[("public-ip-overwrite", Some("203.0.113.7"))])?;
    let _agent = start(&store, &cluster)?;
    assert_eq!(value(&store.annotations("node1")?, "public-ip")?, "203.0.113.7");
    let device = cluster.nodes()[0].exec(&format!("ip -d link show {DEVICE}"))?;
    assert!(device.contains("local 192.168.64.1 "), "the node itself sends from its own address: {device}");
    Ok(())
}

#[test]
fn the_annotation_node_public_ip_chooses_the_address() -> TestResult {
    let (store, cluster) = one_node()?;
    let node = &cluster.nodes()[0];
    node.exec("ip address add 192.168.64.77/24 dev eth0")?;
    store.annotate("node1", &[("node-public-ip", Some("192.168.64.77"))])?;
    let _agent = start(&store, &cluster)?;
    assert_eq!(value(&store.annotations("node1")?, "public-ip")?, "192.168.64.77");
    Ok(())
}

#[test]
fn an_annotation_that_somebody_removed_is_written_again() -> TestResult {
    let bed = Bed::start(2, NETLINK)?;
    let before = bed.store.annotations("node1")?;
    bed.store.annotate("node1", &[("backend-data", None), ("public-ip", Some("192.0.2.1"))])?;
    eventually("the annotations are repaired", SOON, || {
        let now = bed.store.annotations("node1")?;
        anyhow::ensure!(now == before, "{now:?}");
        Ok(())
    })?;
    bed.wait_joined(&[])?;
    Ok(())
}

#[test]
fn the_condition_is_cleared_once_and_not_touched_after_that() -> TestResult {
    let (store, cluster) = one_node()?;
    assert_eq!(store.condition("node1", "NetworkUnavailable")?["status"], "True");
    let mut agent = start(&store, &cluster)?;
    let condition = eventually("NetworkUnavailable is cleared", SOON, || {
        let condition = store.condition("node1", "NetworkUnavailable")?;
        anyhow::ensure!(condition["status"] == "False", "{condition}");
        Ok(condition)
    })?;
    assert_eq!(condition["reason"], "FlannelIsUp");
    assert_eq!(condition["message"], "Flannel is running on this node");
    agent.term()?;
    assert_eq!(store.condition("node1", "NetworkUnavailable")?, condition, "after the agent has ended");
    Ok(())
}

#[test]
fn the_condition_stays_where_the_flag_says_so() -> TestResult {
    let (store, cluster) = one_node()?;
    let agent = Agent::builder(&cluster.nodes()[0]).store(&store).arg(NETLINK);
    let mut agent = agent.arg("--set-node-network-unavailable=false").start()?;
    agent.wait_ready()?;
    let foreign = json!({"type": "Marker", "status": "True"});
    store.client().set_condition(&store.name_of("node1"), &foreign)?;
    assert_eq!(store.condition("node1", "NetworkUnavailable")?["status"], "True");
    Ok(())
}
