//! Pods, services, and the ports of nodes.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use flannel_tests::kubernetes::web::{self, Answer};
use flannel_tests::kubernetes::{KubeCluster, KubePod, Objects};
use flannel_tests::{Host, TestResult, eventually};

use super::web_pods;

/// Limit until kube-proxy has written a new service's rules everywhere.
const RULES: Duration = Duration::from_secs(20);

/// Asks until every pod has answered once: a service chooses at random.
fn ask_until_all_answered(from: &dyn Host, server: SocketAddr, pods: &[KubePod]) -> anyhow::Result<()> {
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
fn ask_all_names(from: &KubePod, server: SocketAddr, pods: &[KubePod]) -> anyhow::Result<()> {
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
