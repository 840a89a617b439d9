//! What the agent tells Kubernetes about a node, and what it makes on the node.

use anyhow::Context as _;
use flannel_tests::kubernetes::{KubeCluster, KubeNode};
use flannel_tests::{Host, TestResult};
use serde_json::{Value, json};

/// The prefix of flannel's annotations.
const PREFIX: &str = "flannel.alpha.coreos.com";

fn object(cluster: &KubeCluster, node: &KubeNode) -> anyhow::Result<Value> {
    cluster.kubectl().json(&format!("get node {}", node.name()))
}

fn mac(node: &KubeNode) -> anyhow::Result<String> {
    let link = node.netns().exec_json("ip -j link show dev flannel.1")?;
    link[0]["address"].as_str().map(str::to_owned).context("flannel.1 has no MAC address")
}

#[test]
fn nodes_become_ready_by_the_agent_alone() -> TestResult {
    let cluster = KubeCluster::attach()?;
    for node in cluster.nodes() {
        let node = object(&cluster, node)?;
        let condition = |kind: &str| {
            let conditions = node["status"]["conditions"].as_array().unwrap();
            conditions.iter().find(|condition| condition["type"] == kind).cloned().unwrap_or_default()
        };
        assert_eq!(condition("Ready")["status"], "True", "{node:#}");
        let network = condition("NetworkUnavailable");
        assert_eq!(network["status"], "False");
        assert_eq!(network["reason"], "FlannelIsUp");
        assert_eq!(network["message"], "Flannel is running on this node");
    }
    Ok(())
}

#[test]
fn annotations_of_a_node_are_those_of_flannel() -> TestResult {
    let cluster = KubeCluster::attach()?;
    for node in cluster.nodes() {
        let annotations = &object(&cluster, node)?["metadata"]["annotations"];
        let of_flannel = annotations.as_object().unwrap().iter();
        let of_flannel: serde_json::Map<_, _> = of_flannel
            .filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?.to_owned(), value.clone())))
            .collect();
        let data = format!(r#"{{"VNI":1,"VtepMAC":"{}"}}"#, mac(node)?);
        let expected = json!({
            "/backend-data": data,
            "/backend-type": "vxlan",
            "/kube-subnet-manager": "true",
            "/public-ip": node.ip().to_string(),
        });
        assert_eq!(Value::Object(of_flannel), expected, "annotations of {}", node.name());
    }
    Ok(())
}

#[test]
fn a_nodes_subnet_is_its_pod_cidr() -> TestResult {
    let cluster = KubeCluster::attach()?;
    for node in cluster.nodes() {
        let object = object(&cluster, node)?;
        let cidr = object["spec"]["podCIDR"].as_str().unwrap();
        let gateway = cidr.replace(".0/24", ".1/24");
        let text = std::fs::read_to_string(node.path("/run/flannel/subnet.env"))?;
        assert_eq!(
            text,
            format!(
                "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET={gateway}\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
            )
        );
    }
    Ok(())
}

#[test]
fn a_node_has_a_route_to_every_other_nodes_pods() -> TestResult {
    let cluster = KubeCluster::attach()?;
    for node in cluster.nodes() {
        let routes = node.exec("ip route show dev flannel.1")?;
        for other in cluster.nodes().iter().filter(|other| other.name() != node.name()) {
            let object = object(&cluster, other)?;
            let cidr = object["spec"]["podCIDR"].as_str().unwrap();
            let gateway = cidr.trim_end_matches("/24");
            let route = format!("{cidr} via {gateway} onlink");
            assert!(routes.lines().any(|line| line.trim() == route), "no {route:?} in {routes}");
            let fdb = node.exec("bridge fdb show dev flannel.1")?;
            let entry = format!("{} dst {}", mac(other)?, other.ip());
            assert!(fdb.contains(&entry), "no {entry:?} in {fdb}");
        }
    }
    Ok(())
}
