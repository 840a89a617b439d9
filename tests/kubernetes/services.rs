//! Pods, services, and the ports of nodes.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use flannel_tests::kubernetes::web::{self, Answer};
use flannel_tests::kubernetes::{KubeCluster, KubeNode, KubePod, Objects};
use flannel_tests::traffic::{Connection, Responder, UdpAsker};
use flannel_tests::wait::scaled;
use flannel_tests::{Host, TestResult, eventually};

use super::{VNI, node_of, web_pods};
use crate::inspect::{self, Round};

/// Limit until kube-proxy has written a new service's rules everywhere.
const RULES: Duration = Duration::from_secs(20);
/// Longest time until datagrams of an old flow follow kube-proxy's rules.
const FOLLOWS: Duration = Duration::from_secs(2);
/// The label of pods behind the service whose endpoints change.
const LABEL: &str = "serves-changing";

/// Asks until every pod has answered once: a service chooses at random.
fn ask_until_all_answered(from: &dyn Host, server: SocketAddr, pods: &[KubePod]) -> Result<()> {
    let mut silent: BTreeSet<_> = pods.iter().map(KubePod::name).collect();
    eventually("every pod answers", RULES, || {
        let answer = web::ask(from, server)?;
        silent.remove(&*answer.pod);
        anyhow::ensure!(silent.is_empty(), "{silent:?} have not answered at {server}");
        Ok(())
    })
}

#[test]
fn pods_reach_each_other_by_their_own_addresses() -> TestResult {
    let cluster = KubeCluster::attach()?;
    let pods = web_pods(&cluster)?;
    for from in &pods {
        for to in &pods {
            let answer = web::ask(from, (to.ip(), web::POD_PORT).into())?;
            let expected = Answer { pod: to.name().to_owned(), client: from.ip() };
            assert_eq!(answer, expected, "{} asked {}", from.node(), to.node());
        }
    }
    Ok(())
}

#[test]
fn every_pod_and_every_node_reaches_all_pods_of_a_service() -> TestResult {
    let cluster = KubeCluster::attach()?;
    let pods = web_pods(&cluster)?;
    for pod in &pods {
        ask_until_all_answered(pod, web::SERVICE, &pods)?;
    }
    for node in cluster.nodes() {
        ask_until_all_answered(node, web::SERVICE, &pods)?;
    }
    Ok(())
}

#[test]
fn a_service_is_reached_from_outside_at_a_port_of_every_node() -> TestResult {
    let cluster = KubeCluster::attach()?;
    let pods = web_pods(&cluster)?;
    for node in cluster.nodes() {
        ask_until_all_answered(&cluster.outside()?, (node.ip(), web::NODE_PORT).into(), &pods)?;
    }
    Ok(())
}

#[test]
fn a_pod_is_reached_at_the_port_of_its_node() -> TestResult {
    let cluster = KubeCluster::attach()?;
    let pods = web_pods(&cluster)?;
    for pod in &pods {
        let node = cluster.nodes().iter().find(|node| node.name() == pod.node()).unwrap();
        let server = (node.ip(), web::HOST_PORT).into();
        assert_eq!(web::ask(&cluster.outside()?, server)?.pod, pod.name(), "asked from outside");
        for other in pods.iter().filter(|other| other.name() != pod.name()) {
            assert_eq!(web::ask(other, server)?.pod, pod.name(), "asked by a pod of {}", other.node());
        }
    }
    Ok(())
}

#[test]
fn a_pod_reaches_itself_through_its_own_service() -> TestResult {
    let cluster = KubeCluster::attach()?;
    let pods = web_pods(&cluster)?;
    for pod in &pods {
        eventually("a pod is answered by itself", RULES, || {
            let answer = web::ask(pod, web::SERVICE)?;
            anyhow::ensure!(answer.pod == pod.name(), "{} answered", answer.pod);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn nodes_reach_pods_and_pods_reach_nodes() -> TestResult {
    let cluster = KubeCluster::attach()?;
    let pods = web_pods(&cluster)?;
    for node in cluster.nodes() {
        for pod in &pods {
            assert_eq!(web::ask(node, (pod.ip(), web::POD_PORT).into())?.pod, pod.name());
            let listener = node.netns().tcp_listen(node.ip(), 0)?;
            pod.netns().tcp_connect(listener.local_addr()?)?;
        }
    }
    Ok(())
}

#[test]
fn udp_requests_to_a_service_are_answered_from_its_address() -> TestResult {
    const PORT: u16 = 5353;
    let cluster = KubeCluster::attach()?;
    let pods = web_pods(&cluster)?;
    let server: SocketAddr = "10.96.77.53:53".parse()?;
    let _service = Objects::apply(
        &cluster,
        r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "names"}, "spec": {
            "clusterIP": "10.96.77.53", "selector": {"app": "web"},
            "ports": [{"port": 53, "targetPort": 5353, "protocol": "UDP"}]}}"#,
    )?;
    let stop = AtomicBool::new(false);
    let servers =
        pods.iter().map(|pod| pod.netns().udp_bind(pod.ip(), PORT)).collect::<Result<Vec<_>, _>>()?;
    thread::scope(|scope| {
        for (socket, pod) in servers.iter().zip(&pods) {
            scope.spawn(|| answer_by_name(socket, pod.name(), &stop));
        }
        let result = pods.iter().try_for_each(|pod| ask_all_names(pod, server, &pods));
        stop.store(true, Ordering::Relaxed);
        result
    })?;
    Ok(())
}

/// Answers every datagram by a name, until it is told to stop.
fn answer_by_name(socket: &std::net::UdpSocket, name: &str, stop: &AtomicBool) {
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut request = [0; 512];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((_, client)) = socket.recv_from(&mut request) {
            let _ = socket.send_to(name.as_bytes(), client);
        }
    }
}

/// Sends requests from new ports until every pod has answered one.
fn ask_all_names(from: &KubePod, server: SocketAddr, pods: &[KubePod]) -> Result<()> {
    let mut silent: BTreeSet<_> = pods.iter().map(|pod| pod.name().to_owned()).collect();
    eventually("every pod answers", RULES, || {
        let socket = from.netns().udp_bind(IpAddr::from([0, 0, 0, 0]), 0)?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        // An answer from another address does not reach a connected socket.
        socket.connect(server)?;
        socket.send(b"name?")?;
        let mut answer = [0; 512];
        let length = socket.recv(&mut answer)?;
        silent.remove(&*String::from_utf8_lossy(&answer[..length]));
        anyhow::ensure!(silent.is_empty(), "{silent:?} have not answered");
        Ok(())
    })
}

/// A label that makes a pod an endpoint of a service. It is taken away when dropped.
struct Endpoint<'a> {
    cluster: &'a KubeCluster,
    pod: &'a KubePod,
}

impl<'a> Endpoint<'a> {
    fn add(cluster: &'a KubeCluster, pod: &'a KubePod) -> Result<Self> {
        cluster.kubectl().run(&format!("label pod {} {LABEL}=yes --overwrite", pod.name()))?;
        Ok(Self { cluster, pod })
    }
}

impl Drop for Endpoint<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.kubectl().run(&format!("label pod {} {LABEL}-", self.pod.name())) {
            eprintln!("{error:#}");
        }
    }
}

/// Returns how many packets the node's programs have taken from its pods and to them, past the host stack.
fn past_stack(node: &KubeNode) -> Result<(u64, u64)> {
    let metrics = node.metrics(VNI)?;
    let count = |hook: &str, outcome: &str| -> u64 {
        let counted = metrics.iter().filter(|metric| metric.hook == hook && metric.outcome == outcome);
        counted.map(|metric| metric.packets).sum()
    };
    Ok((
        count("PodEgress", "Encapsulated"),
        count("UnderlayIngress", "Delivered") + count("OverlayIngress", "Delivered"),
    ))
}

/// Waits until most exchanges of a round take the shortcut on a node, in both directions.
fn ensure_shortcut(node: &KubeNode, exchange: impl FnMut() -> Result<()>) -> Result<()> {
    let round = Round { exchanges: 40, least: 21, within: RULES };
    inspect::ensure_shortcut(round, || past_stack(node), exchange)
}

/// Waits until kube-proxy on this node has rules for the first address, and none for the second.
fn wait_for_rules(node: &KubeNode, with: SocketAddr, without: SocketAddr) -> Result<()> {
    eventually("kube-proxy has written its rules", RULES, || {
        let rules = node.exec("iptables-save -t nat")?;
        let leads_to = |address: SocketAddr| {
            let end = format!("-j DNAT --to-destination {address}");
            rules.lines().any(|rule| rule.contains("-p udp") && rule.ends_with(&end))
        };
        ensure!(leads_to(with) && !leads_to(without), "{rules}");
        Ok(())
    })
}

#[test]
fn a_service_takes_the_shortcut_and_datagrams_follow_its_endpoints() -> TestResult {
    const PORT: u16 = 5301;
    let cluster = KubeCluster::attach()?;
    let pods = web_pods(&cluster)?;
    let [client, old, new] = &pods[..] else {
        return Err(anyhow::anyhow!("the cluster has not three nodes").into());
    };
    let node = node_of(&cluster, client)?;
    let service: SocketAddr = "10.96.77.54:5300".parse()?;
    let _service = Objects::apply(
        &cluster,
        r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "changing"}, "spec": {
            "clusterIP": "10.96.77.54", "selector": {"serves-changing": "yes"}, "ports": [
            {"name": "udp", "port": 5300, "targetPort": 5301, "protocol": "UDP"},
            {"name": "tcp", "port": 5300, "targetPort": 5301, "protocol": "TCP"}]}}"#,
    )?;
    let servers = [Responder::start(old, PORT)?, Responder::start(new, PORT)?];
    let [first, second] = [servers[0].address(), servers[1].address()];
    let endpoint = Endpoint::add(&cluster, old)?;
    wait_for_rules(node, first, second)?;
    let mut asker = UdpAsker::open(client, 0)?;
    let mut connection = Connection::open(client, 0, service)?;
    ensure_shortcut(node, || {
        ensure!(asker.ask(service, 100)?.server == first, "the new server has answered");
        Ok(())
    })
    .context("UDP")?;
    ensure_shortcut(node, || connection.ask(100).map(drop)).context("TCP")?;
    assert_eq!(connection.ask(4 << 20)?.client.ip(), client.ip());
    let _second = Endpoint::add(&cluster, new)?;
    drop(endpoint);
    // kube-proxy removes the connections after it has written the rules.
    wait_for_rules(node, second, first)?;
    let (start, mut wrong) = (Instant::now(), 0);
    while match asker.ask(service, 100) {
        Ok(answer) => answer.server != second,
        // A connection that is removed between a request and its answer leaves the server's own address in that.
        Err(error) if wrong > 0 => return Err(error.into()),
        Err(_) => {
            wrong += 1;
            true
        }
    } {
        assert!(start.elapsed() < scaled(FOLLOWS), "the old server answers after {:?}", start.elapsed());
    }
    println!("datagrams go to the new server {:?} after kube-proxy's rules", start.elapsed());
    ensure_shortcut(node, || {
        ensure!(asker.ask(service, 100)?.server == second, "the old server has answered");
        Ok(())
    })
    .context("UDP to the new server")?;
    assert_eq!(connection.ask(100)?.server, first, "a connection stays where it is");
    assert_eq!(Connection::open(client, 0, service)?.ask(100)?.server, second);
    Ok(())
}
