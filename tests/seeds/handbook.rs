//! "Flannel": a udp network with subnets of 4096 addresses and Docker on it, and the node of a cloud with vxlan.

use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use flannel_tests::agent::agent_binary;
use flannel_tests::docker::Container;
use flannel_tests::etcd::PREFIX;
use flannel_tests::process::{LIMIT, finish};
use flannel_tests::traffic::ping;
use flannel_tests::{Capture, Cluster, Docker, Host as _, NetNs, Node, TestResult, Topology, eventually};
use serde_json::{Value, json};

use super::{SMALL_SUBNETS, ensure_shows, ensure_small_subnet, rename_uplinks};

const SOON: Duration = Duration::from_secs(10);

/// "Docker集成": reads subnet.env in a shell, and gives bip and mtu to Docker.
fn start_docker(node: &Node) -> Result<Docker> {
    let script =
        format!(". {}; echo --bip=${{FLANNEL_SUBNET}} --mtu=${{FLANNEL_MTU}}", node.subnet_file().display());
    let options = node.netns().exec_with("sh", &script)?;
    Docker::start(node, &options.split_whitespace().collect::<Vec<_>>())
}

#[test]
fn the_udp_network_with_docker_works_as_written() -> TestResult {
    let cluster = Cluster::segment(2)?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(SMALL_SUBNETS)?;
    let _agents = cluster.start_agents(&etcd)?;
    for node in cluster.nodes() {
        ensure_small_subnet(node)?;
        let env = node.subnet_env()?;
        assert_eq!((env.mtu, env.ip_masq), (1472, false), "without --ip-masq");
        ensure_shows(node, "ip -d link show flannel0", &["mtu 1472", "tun type tun"])?;
        ensure_shows(node, "ip route show dev flannel0", &["10.0.0.0/8"])?;
    }
    let dockers = cluster.nodes().iter().map(start_docker).collect::<Result<Vec<_>>>()?;
    let containers = dockers.iter().map(Docker::start_web_server).collect::<Result<Vec<Container>>>()?;
    for (node, container) in cluster.nodes().iter().zip(&containers) {
        let gateway = node.subnet_env()?.subnet.context("a subnet")?;
        ensure_shows(node, "ip addr show dev docker0", &[&format!("inet {gateway}")])?;
        assert_eq!((container.mtu(), container.address().len), (1472, 20), "MTU and prefix of a container");
    }
    eventually("the containers reach each other", SOON, || ping(&containers[0], containers[1].ip()))?;
    // Packets travel on the configuration's port.
    let capture = Capture::start(cluster.nodes()[0].netns(), "eth0")?;
    ping(&containers[0], containers[1].ip())?;
    let ports = capture.stop()?.fields("udp", &["udp.srcport", "udp.dstport"])?;
    assert_eq!(ports, [["7890", "7890"]; 2], "request and reply on the uplink");
    Ok(())
}

#[test]
fn the_files_and_the_device_of_a_node_in_the_cloud_are_those_of_the_text() -> TestResult {
    // The text's node has an uplink ens4 of MTU 1460 and the first subnet, as Kubernetes numbers them.
    let cluster = Cluster::build(Topology::segment(1).mtu(1460))?;
    let address = Ipv4Addr::new(10, 146, 0, 2);
    rename_uplinks(&cluster, "ens4", address)?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(r#"{"Network":"10.244.0.0/16","SubnetMin":"10.244.0.0","Backend":{"Type":"vxlan"}}"#)?;
    etcd.put(&format!("{PREFIX}/subnets/10.244.0.0-24"), &format!(r#"{{"PublicIP":"{address}"}}"#))?;
    let _agents = cluster.start_agents_with(&etcd, |agent| agent.arg("--ip-masq"))?;
    let node = &cluster.nodes()[0];
    // `cat /run/flannel/subnet.env`
    assert_eq!(
        std::fs::read_to_string(node.subnet_file())?,
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.0.1/24\nFLANNEL_MTU=1410\nFLANNEL_IPMASQ=true\n"
    );
    // `ip -d link show flannel.1`, every field. The text's device has outer UDP checksums. Network cards have corrupted
    // packets because of them (flannel issue 1279), so a new device has none.
    ensure_shows(
        node,
        "ip -d link show flannel.1",
        &[
            "flannel.1: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1410 qdisc noqueue state UNKNOWN mode DEFAULT group default",
            "link/ether",
            "brd ff:ff:ff:ff:ff:ff promiscuity 0",
            "vxlan id 1 local 10.146.0.2 dev ens4 srcport 0 0 dstport 8472 nolearning",
            "ageing 300",
            "noudpcsum",
            "addrgenmode eui64",
        ],
    )?;
    let shown = node.netns().exec_json("ip -j link show flannel.1")?;
    let first = shown[0]["address"].as_str().and_then(|mac| u8::from_str_radix(mac.get(..2)?, 16).ok());
    assert_eq!(first.map(|byte| byte & 3), Some(2), "a locally administered unicast MAC: {shown}");
    Ok(())
}

/// "CNI集成": the plugin gives the bridge plugin a network of its own, from the text's few lines and subnet.env.
#[test]
fn the_cni_configuration_becomes_that_of_the_bridge_plugin() -> TestResult {
    let cluster = Cluster::segment(1)?;
    let etcd = cluster.start_etcd()?;
    etcd.configure(r#"{"Network":"10.1.0.0/16","Backend":{"Type":"udp"}}"#)?;
    let node = &cluster.nodes()[0];
    etcd.put(&format!("{PREFIX}/subnets/10.1.17.0-24"), &format!(r#"{{"PublicIP":"{}"}}"#, node.ip()))?;
    let _agents = cluster.start_agents_with(&etcd, |agent| agent.arg("--ip-masq"))?;
    let folder = node.dir();
    let config = json!({
        "name": "mynet",
        "type": "flannel",
        "delegate": {"bridge": "mynet0", "mtu": 1400},
        // Folders of this node, so that nodes do not share the machine's.
        "subnetFile": node.subnet_file(),
        "dataDir": folder.join("cni"),
        "ipam": {"dataDir": folder.join("networks")},
    });
    let pod = NetNs::new("pod")?;
    let mut plugin = node.netns().command(agent_binary()?);
    plugin.arg0("flannel").env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", "one").env("CNI_IFNAME", "eth0");
    plugin.env("CNI_NETNS", pod.path()).env("CNI_PATH", "/usr/lib/cni");
    finish(&mut plugin, &config.to_string(), LIMIT)?;
    let delegated: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("cni/one"))?)?;
    for (key, value) in [
        ("name", json!("mynet")),
        ("type", json!("bridge")),
        // The text's result has the MTU of subnet.env here. The one in `delegate` wins, also with flannel.
        ("mtu", json!(1400)),
        ("ipMasq", json!(false)),
        ("isGateway", json!(true)),
    ] {
        assert_eq!(delegated[key], value, "{key} in {delegated}");
    }
    assert_eq!(delegated["ipam"]["type"], "host-local");
    assert!(delegated["ipam"].to_string().contains(r#""subnet":"10.1.17.0/24""#), "{delegated}");
    ensure_shows(node, "ip addr show dev mynet0", &["mtu 1400", "inet 10.1.17.1/24"])?;
    assert!(pod.exec("ip addr show dev eth0")?.contains("inet 10.1.17.2/24"));
    Ok(())
}
