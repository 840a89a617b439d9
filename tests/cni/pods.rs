//! Pods made by the plugins of a conflist, with agents that carry their packets.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::traffic::{At, UdpSession, ping, tcp_transfer};
use flannel_tests::{Host, Node, TestResult, Topology, eventually};
use serde_json::{Value, json};

use super::runtime::{Runtime, Sandbox};
use super::{addresses, conflist, data_dir, set_up};
use crate::inspect;
use crate::overlay::{NETWORK, Overlay};

const SOON: Duration = Duration::from_secs(10);
const DUAL: &str =
    r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd44::/48","Backend":{"Type":"vxlan"}}"#;

/// Two nodes without pods, with agents that masquerade as in flannel's manifest. Otherwise the bridge plugin would, also
/// between pods.
fn overlay(network: &str) -> Result<Overlay> {
    Overlay::start_in(network, Topology::segment(2), &["--ip-masq"; 2], 0, |agent| agent)
}

/// Returns the runtime of a node, with flannel's conflist.
fn stock(node: &Node) -> Result<Runtime<'_>> {
    set_up(node, &conflist(node, "1.0.0", |_| {}))
}

/// Pings each pod from the other at every address.
fn ensure_reached(pods: [&Sandbox; 2]) -> Result<()> {
    let ips = |pod: &Sandbox| -> Result<Vec<_>> {
        pod.addresses().iter().map(|net| Ok(net.split('/').next().unwrap_or("").parse()?)).collect()
    };
    for (from, to) in [(pods[0], pods[1]), (pods[1], pods[0])] {
        for (ip, remote) in ips(from)?.into_iter().zip(ips(to)?) {
            eventually("pods reach each other", SOON, || ping(&At { netns: from.netns(), ip }, remote))?;
        }
    }
    Ok(())
}

#[test]
fn pods_of_two_nodes_reach_each_other() -> TestResult {
    for (network, families) in [(NETWORK, 1), (DUAL, 2)] {
        let overlay = overlay(network)?;
        let runtimes = overlay.nodes().iter().map(stock).collect::<Result<Vec<_>>>()?;
        let pods = runtimes.iter().map(|runtime| runtime.add(Value::Null)).collect::<Result<Vec<_>>>()?;
        for (node, pod) in overlay.nodes().iter().zip(&pods) {
            assert_eq!(pod.addresses().len(), families, "{network}");
            assert_eq!(addresses(pod.netns(), "eth0")?, pod.addresses());
            let gateways = node.subnet_env()?.gateways();
            let gateways: Vec<_> = gateways.iter().map(ToString::to_string).collect();
            assert_eq!(addresses(node.netns(), "cni0")?, gateways);
            let link = pod.netns().exec_json("ip -j link show dev eth0")?;
            assert_eq!(link[0]["mtu"], node.subnet_env()?.mtu);
        }
        ensure_reached([&pods[0], &pods[1]])?;
        tcp_transfer(&pods[0], &pods[1], 4 << 20)?;
        for (runtime, pod) in runtimes.iter().zip(&pods) {
            runtime.detach(pod)?;
        }
    }
    Ok(())
}

#[test]
fn the_delegates_configuration_is_saved_until_the_pod_is_deleted() -> TestResult {
    let overlay = overlay(NETWORK)?;
    let node = &overlay.nodes()[0];
    let runtime = stock(node)?;
    let pod = runtime.add(Value::Null)?;
    let subnet = node.subnet_env()?.subnet.context("no subnet")?;
    let base = overlay.base(0)?;
    let expected = format!(
        r#"{{"cniVersion":"1.0.0","hairpinMode":true,"ipMasq":false,"ipam":{{"dataDir":"{}","ranges":[[{{"subnet":"{base}/{}"}}]],"routes":[{{"dst":"10.5.0.0/16"}}],"type":"host-local"}},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}}"#,
        node.dir().join("cni/networks").display(),
        subnet.len
    );
    let saved = data_dir(node).join(pod.id());
    assert_eq!(fs::read_to_string(&saved)?, expected);
    let mode = |path: &Path| fs::metadata(path).map(|found| found.permissions().mode() & 0o7777);
    assert_eq!((mode(&data_dir(node))?, mode(&saved)?), (0o700, 0o600));
    runtime.detach(&pod)?;
    assert!(!saved.exists(), "{} is left", saved.display());
    Ok(())
}

#[test]
fn a_host_port_leads_to_the_pod() -> TestResult {
    let overlay = overlay(NETWORK)?;
    let [node, other] = overlay.nodes() else { panic!("two nodes") };
    let runtime = stock(node)?;
    let pod =
        runtime.add(json!({"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}))?;
    let listener = pod.netns().tcp_listen(pod.ip(), 80)?;
    let target = SocketAddr::new(node.ip().into(), 8080);
    let client = other.netns().tcp_connect(target)?;
    let (_, from) = listener.accept()?;
    assert_eq!(from.ip(), Host::ip(other), "the client's address is kept");
    drop(client);
    runtime.detach(&pod)?;
    assert!(other.netns().tcp_connect(target).is_err(), "the port is open after DEL");
    Ok(())
}

#[test]
fn a_pod_with_limited_bandwidth_stays_on_the_slow_path() -> TestResult {
    let overlay = overlay(NETWORK)?;
    let [node, other] = overlay.nodes() else { panic!("two nodes") };
    let limit = json!({"bandwidth": {"ingressRate": 100_000_000, "ingressBurst": 8_000_000}});
    let (limited, free) = (stock(node)?.add(limit)?, stock(node)?.add(Value::Null)?);
    let remote = stock(other)?.add(Value::Null)?;
    ensure_reached([&limited, &remote])?;
    let qdiscs = node.exec(&format!("tc qdisc show dev {}", limited.port()?))?;
    assert!(qdiscs.contains("qdisc tbf"), "{qdiscs}");
    eventually("only the port without a qdisc has programs", SOON, || {
        let programs = |pod: &Sandbox| inspect::programs(node, pod.port()?);
        ensure!(programs(&limited)?.is_empty(), "{:?}", programs(&limited)?);
        ensure!(!programs(&free)?.is_empty(), "the other port has none");
        Ok(())
    })?;
    let before = inspect::shortcut(node)?;
    let mut session = UdpSession::open(&limited, &remote)?;
    (0..5).try_for_each(|_| session.echo(100))?;
    assert_eq!(inspect::shortcut(node)?, before, "packets of the limited pod took the shortcut");
    let mut session = UdpSession::open(&free, &remote)?;
    eventually("packets of the other pod take the shortcut", SOON, || {
        session.echo(100)?;
        ensure!(inspect::shortcut(node)? != before, "not yet");
        Ok(())
    })?;
    Ok(())
}
