//! Pods on nodes that take their subnets from Kubernetes reach each other.

use std::net::IpAddr;

use anyhow::ensure;
use flannel_tests::{Cluster, Datastore as _, TestResult, eventually};

use super::bed::{BPF, Bed, NETLINK, NETWORK, SOON};
use crate::inspect::Peer;
use crate::overlay::ping_all_pairs;

#[test]
fn pods_reach_each_other_with_the_pod_cidrs_of_their_nodes() -> TestResult {
    let bed = Bed::start(3, BPF)?;
    ping_all_pairs(&bed.pods)?;
    for (number, node) in (1..).zip(bed.nodes()) {
        let subnet = node.subnet_env()?.subnet.map(|subnet| subnet.to_string());
        assert_eq!(subnet, Some(format!("10.5.{number}.1/24")), "the subnet of {}", node.name());
    }
    Ok(())
}

#[test]
fn nodes_with_bpf_and_without_reach_each_other() -> TestResult {
    let mut bed = Bed::start(2, BPF)?;
    bed.agents[1].restart_with(|flags| {
        flags.retain(|flag| flag != BPF);
        flags.push(NETLINK.to_owned());
    })?;
    bed.wait_joined(&[])?;
    ping_all_pairs(&bed.pods)?;
    Ok(())
}

#[test]
fn pods_reach_each_other_in_both_address_families() -> TestResult {
    let cluster = Cluster::segment(2)?;
    let store = cluster.kube_store()?;
    store.configure(
        r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd44::/48","Backend":{"Type":"vxlan"}}"#,
    )?;
    store.add_node("node1", &["10.5.1.0/24", "fd44:0:0:1::/64"])?;
    store.add_node("node2", &["10.5.2.0/24", "fd44:0:0:2::/64"])?;
    let _agents = cluster.start_agents(&store)?;
    let pods = cluster.one_pod_each()?;
    for pod in &pods {
        let families: Vec<_> = pod.addresses().iter().map(IpAddr::is_ipv6).collect();
        assert_eq!(families, [false, true], "a pod has an address of each family");
    }
    eventually("pods reach each other in both families", SOON, || ping_all_pairs(&pods))?;
    Ok(())
}

#[test]
fn nodes_that_join_and_leave_are_followed() -> TestResult {
    let bed = Bed::start(2, NETLINK)?;
    bed.ensure_follows()?;
    ping_all_pairs(&bed.pods)?;
    Ok(())
}

#[test]
fn a_node_that_comes_back_with_another_pod_cidr_is_reached_there() -> TestResult {
    let bed = Bed::start(2, NETLINK)?;
    let [other, again] = bed.nodes() else { unreachable!("two nodes") };
    bed.store.delete_node(again.name())?;
    eventually("the other node forgets it", SOON, || crate::inspect::ensure_knows(other, &[]))?;
    bed.store.add_node(again.name(), &["10.5.9.0/24"])?;
    eventually("the node takes its new podCIDR", SOON, || {
        let subnet = again.subnet_env()?.subnet.map(|subnet| subnet.to_string());
        ensure!(subnet.as_deref() == Some("10.5.9.1/24"), "its subnet is {subnet:?}");
        Ok(())
    })?;
    bed.wait_joined(&[])?;
    assert_eq!(Peer::of(again)?.base.to_string(), "10.5.9.0");
    Ok(())
}

#[test]
fn the_backend_host_gw_works_with_pod_cidrs() -> TestResult {
    let cluster = Cluster::segment(2)?;
    let store = cluster.kube_store()?;
    store.configure(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#)?;
    store.add_node("node1", &["10.5.1.0/24"])?;
    store.add_node("node2", &["10.5.2.0/24"])?;
    let _agents = cluster.start_agents(&store)?;
    let pods = cluster.one_pod_each()?;
    eventually("pods reach each other", SOON, || ping_all_pairs(&pods))?;
    let annotations = store.annotations("node1")?;
    let expected = [
        ("backend-data", "null"),
        ("backend-type", "host-gw"),
        ("kube-subnet-manager", "true"),
        ("public-ip", &cluster.nodes()[0].ip().to_string()),
    ];
    assert_eq!(annotations, owned(&expected));
    Ok(())
}

fn owned(annotations: &[(&str, &str)]) -> Vec<(String, String)> {
    let both = annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    both.collect()
}

/// The podCIDR of a node may be longer or shorter than a /24.
#[test]
fn pod_cidrs_of_any_length_are_used() -> TestResult {
    let cluster = Cluster::segment(2)?;
    let store = cluster.kube_store()?;
    store.configure(NETWORK)?;
    store.add_node("node1", &["10.5.16.0/20"])?;
    store.add_node("node2", &["10.5.1.64/26"])?;
    let _agents = cluster.start_agents(&store)?;
    let pods = cluster.one_pod_each()?;
    eventually("pods reach each other", SOON, || ping_all_pairs(&pods))?;
    Ok(())
}
