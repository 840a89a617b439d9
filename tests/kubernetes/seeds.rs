//! The parts of the texts of `tests/seeds.rs` that have Kubernetes, walked on the cluster.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::kubernetes::{KubeCluster, KubeNode, KubePod};
use flannel_tests::{Host as _, TestResult, eventually};
use serde_json::{Value, json};

use super::{AGENT, node_of, pod_cidr, replace_agents, web_pods};
use crate::seeds::{Pings, REPLY};

const UPLINK: &str = "eth0";
const PATIENCE: Duration = Duration::from_secs(60);

/// Fails unless the command prints each of these parts on the node.
fn ensure_shows(node: &KubeNode, command: &str, parts: &[&str]) -> Result<()> {
    let shown = node.exec(command)?;
    for part in parts {
        ensure!(shown.contains(part), "`{command}` on {} does not show {part:?}: {shown}", node.name());
    }
    Ok(())
}

/// Returns a node's subnet without the last part of its address: `10.244.1.`.
fn prefix(cluster: &KubeCluster, node: &KubeNode) -> Result<String> {
    let cidr = pod_cidr(cluster, node)?;
    Ok(cidr.strip_suffix("0/24").with_context(|| format!("{cidr} is no /24"))?.to_owned())
}

fn ipv4(node: &KubeNode) -> Result<Ipv4Addr> {
    match node.ip() {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(ip) => anyhow::bail!("{} has the address {ip}", node.name()),
    }
}

/// "Flannel", Kubernetes集成: what `kubectl apply` has started and made on a node.
#[test]
fn a_node_shows_what_the_handbook_shows() -> TestResult {
    let cluster = KubeCluster::attach()?;
    web_pods(&cluster)?;
    for node in cluster.nodes() {
        let prefix = prefix(&cluster, node)?;
        // `ps -ef | grep flannel`
        ensure_shows(node, "pgrep --full --list-full flannel", &["--ip-masq", "--kube-subnet-mgr"])?;
        // `cat /etc/cni/net.d/10-flannel.conf`, which has been a conflist since flannel 0.11.
        let conflist = std::fs::read_to_string(node.path("/etc/cni/net.d/10-flannel.conflist"))?;
        let conflist: Value = serde_json::from_str(&conflist)?;
        assert_eq!(conflist["name"], "cbr0");
        let flannel = json!({"type": "flannel", "delegate": {"hairpinMode": true, "isDefaultGateway": true}});
        let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        assert_eq!(conflist["plugins"], json!([flannel, portmap]));
        // `cat /run/flannel/subnet.env`
        let env = std::fs::read_to_string(node.path("/run/flannel/subnet.env"))?;
        let expected = format!(
            "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET={prefix}1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
        );
        assert_eq!(env, expected, "{}", node.name());
        // `ip -d link show flannel.1`
        let options =
            format!("vxlan id 1 local {} dev {UPLINK} srcport 0 0 dstport 8472 nolearning", node.ip());
        ensure_shows(
            node,
            "ip -d link show flannel.1",
            &[
                "<BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1450 qdisc noqueue state UNKNOWN",
                &options,
                "ageing 300",
            ],
        )?;
    }
    Ok(())
}

/// "k8s网络插件flannel模式剖析": interfaces, DaemonSet, pods and ConfigMap.
#[test]
fn kubectl_and_the_interfaces_show_what_the_text_on_modes_shows() -> TestResult {
    let cluster = KubeCluster::attach()?;
    let pods = web_pods(&cluster)?;
    // `kubectl get daemonset`: all numbers are the nodes'.
    let shown = cluster.kubectl().run("get daemonset --namespace kube-flannel --no-headers")?;
    let columns: Vec<_> = shown.split_whitespace().take(6).collect();
    let nodes = cluster.nodes().len().to_string();
    assert_eq!(columns, ["kube-flannel-ds", &nodes, &nodes, &nodes, &nodes, &nodes]);
    // `kubectl get pods -o wide`: the agent's pods have the nodes' addresses.
    let agents = cluster.kubectl().run("get pods --namespace kube-flannel --output wide --no-headers")?;
    for node in cluster.nodes() {
        let line = agents.lines().find(|line| line.contains(&node.ip().to_string()));
        let line = line.with_context(|| format!("no pod has the address of {}: {agents}", node.name()))?;
        assert!(line.contains("1/1") && line.contains("Running") && line.contains(node.name()), "{line}");
    }
    // `kubectl get configmap`: two entries.
    let shown =
        cluster.kubectl().run("get configmap kube-flannel-cfg --namespace kube-flannel --no-headers")?;
    assert_eq!(shown.split_whitespace().take(2).collect::<Vec<_>>(), ["kube-flannel-cfg", "2"]);
    for (node, pod) in cluster.nodes().iter().zip(&pods) {
        let prefix = prefix(&cluster, node)?;
        // `ifconfig`
        ensure_shows(node, "ip addr show dev cni0", &["mtu 1450", &format!("inet {prefix}1/24")])?;
        ensure_shows(node, "ip addr show dev flannel.1", &["mtu 1450", &format!("inet {prefix}0/32")])?;
        // `brctl show cni0`
        ensure_shows(node, "ip link show master cni0", &["veth", "mtu 1450"])?;
        assert!(pod.ip().to_string().starts_with(&prefix), "{} of {}", pod.ip(), node.name());
    }
    Ok(())
}

/// The network's configuration, written again when dropped.
struct NetConf<'a> {
    cluster: &'a KubeCluster,
    before: String,
}

impl<'a> NetConf<'a> {
    fn of(cluster: &'a KubeCluster) -> Result<Self> {
        let map = cluster.kubectl().json("get configmap kube-flannel-cfg --namespace kube-flannel")?;
        let before = map["data"]["net-conf.json"].as_str().context("no net-conf.json")?.to_owned();
        Ok(Self { cluster, before })
    }

    /// Writes another one, as `kubectl edit` does, and restarts the agents.
    fn write(&self, text: &str) -> Result<()> {
        let patch = json!({"data": {"net-conf.json": text}}).to_string();
        let words =
            ["patch", "configmap", "kube-flannel-cfg", "--namespace", "kube-flannel", "--patch", &patch];
        self.cluster.kubectl().run_with(&words, "")?;
        self.cluster.kubectl().run(&format!("rollout restart {AGENT}"))?;
        replace_agents(self.cluster)
    }
}

impl Drop for NetConf<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.write(&self.before) {
            eprintln!("the network's configuration was not written again: {error:#}");
        }
    }
}

/// The pods and nodes between which the text pings.
struct Walk<'a> {
    cluster: &'a KubeCluster,
    pods: &'a [KubePod],
}

impl Walk<'_> {
    fn pings(&self) -> Result<Pings<'_>> {
        let node = node_of(self.cluster, &self.pods[0])?;
        Ok(Pings { node: node.netns(), from: &self.pods[0], to: &self.pods[1] })
    }

    /// Waits until the first pod's node reaches the other nodes' pods by routes of this form.
    fn ensure_routes(&self, route: impl Fn(&str, &KubeNode) -> String) -> Result<()> {
        let node = node_of(self.cluster, &self.pods[0])?;
        let others = self.cluster.nodes().iter().filter(|other| other.name() != node.name());
        let expected = others.map(|other| Ok(route(&prefix(self.cluster, other)?, other)));
        let expected = expected.collect::<Result<Vec<_>>>()?;
        eventually("the routes are those of the text", PATIENCE, || {
            let shown = node.exec("ip route show")?;
            let missing = expected.iter().find(|route| !shown.lines().any(|line| line.trim() == **route));
            ensure!(missing.is_none(), "no {missing:?} in {shown}");
            Ok(())
        })
    }
}

/// "k8s网络插件flannel模式剖析": routes and tcpdump with vxlan, and then with Directrouting.
#[test]
fn the_walk_through_vxlan_and_directrouting_works_as_written() -> TestResult {
    let cluster = KubeCluster::attach()?;
    let pods = web_pods(&cluster)?;
    let walk = Walk { cluster: &cluster, pods: &pods };
    let nodes = [ipv4(node_of(&cluster, &pods[0])?)?, ipv4(node_of(&cluster, &pods[1])?)?];
    walk.ensure_routes(|prefix, _| format!("{prefix}0/24 via {prefix}0 dev flannel.1 onlink"))?;
    let pings = walk.pings()?;
    assert_eq!(pings.icmp("cni0")?, pings.both_ways(), "on cni0");
    let replies: Vec<_> = pings.both_ways().into_iter().filter(|[_, _, kind]| kind == REPLY).collect();
    assert_eq!(pings.icmp("flannel.1")?, replies, "BPF takes requests before tcpdump on flannel.1");
    pings.ensure_encapsulated(UPLINK, nodes[0], nodes[1])?;

    let config = NetConf::of(&cluster)?;
    config.write(r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "Directrouting": true}}"#)?;
    walk.ensure_routes(|prefix, node| format!("{prefix}0/24 via {} dev {UPLINK}", node.ip()))?;
    walk.pings()?.ensure_direct(UPLINK)?;
    drop(config);
    walk.ensure_routes(|prefix, _| format!("{prefix}0/24 via {prefix}0 dev flannel.1 onlink"))?;
    Ok(())
}
