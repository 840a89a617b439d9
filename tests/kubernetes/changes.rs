//! Pods that come and go.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::kubernetes::web::{self, POD_PORT};
use flannel_tests::kubernetes::{KubeCluster, Objects};
use flannel_tests::{Host, TestResult, eventually};

use super::web_pods;

const PATIENCE: Duration = Duration::from_secs(60);

/// A Deployment and its Service. Its servers go on for some seconds after they were told to end, as servers should: rules
/// of kube-proxy follow a moment later.
fn deployment(name: &str, replicas: u32, service: &str) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 5
      automountServiceAccountToken: false
      containers:
      - name: web
        image: test-bed/busybox:1
        imagePullPolicy: Never
        command: [httpd, -f, -p, "8080", -h, /www]
        readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  clusterIP: {service}
  selector: {{app: {name}}}
  ports: [{{port: 80, targetPort: 8080}}]
"#
    )
}

#[test]
fn requests_are_answered_while_a_deployment_is_scaled() -> TestResult {
    let cluster = KubeCluster::attach()?;
    let clients = web_pods(&cluster)?;
    let server: SocketAddr = "10.96.77.80:80".parse()?;
    let _deployment = Objects::apply(&cluster, &deployment("scaled", 1, "10.96.77.80"))?;
    cluster.wait_rolled_out("deployment/scaled")?;
    for client in &clients {
        eventually("the service is reached", PATIENCE, || web::ask(client, server))?;
    }
    let (stop, answered) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        let asking = clients.iter().map(|client| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    web::ask(client, server)?;
                    answered.fetch_add(1, Ordering::Relaxed);
                    // One client asks no faster than a person's script.
                    thread::sleep(Duration::from_millis(20));
                }
                anyhow::Ok(())
            })
        });
        let asking: Vec<_> = asking.collect();
        let scaled = [6, 2, 5].iter().try_for_each(|replicas| scale(&cluster, *replicas));
        stop.store(true, Ordering::Relaxed);
        let asked = asking.into_iter().try_for_each(|thread| thread.join().unwrap());
        scaled.and(asked)
    })?;
    println!("{} requests were answered", answered.load(Ordering::Relaxed));
    Ok(())
}

/// Scales the deployment and waits until just as many pods are there.
fn scale(cluster: &KubeCluster, replicas: usize) -> Result<()> {
    cluster.kubectl().run(&format!("scale deployment/scaled --replicas {replicas}"))?;
    cluster.wait_rolled_out("deployment/scaled")?;
    eventually("pods that are not wanted are gone", PATIENCE, || {
        let pods = cluster.kubectl().json("get pods --selector app=scaled")?;
        let count = pods["items"].as_array().context("no list")?.len();
        ensure!(count == replicas, "{count} pods of {replicas}");
        Ok(())
    })
}

#[test]
fn evicted_pods_are_replaced_and_reached() -> TestResult {
    let cluster = KubeCluster::attach()?;
    let clients = web_pods(&cluster)?;
    let _deployment = Objects::apply(&cluster, &deployment("evicted", 3, "10.96.77.81"))?;
    cluster.wait_rolled_out("deployment/evicted")?;
    let before = cluster.pods("app=evicted")?;
    for pod in &before {
        let eviction = format!(
            r#"{{"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {{"name": "{}", "namespace": "default"}}}}"#,
            pod.name()
        );
        let path = format!("/api/v1/namespaces/default/pods/{}/eviction", pod.name());
        cluster.kubectl().run_with(&["create", "--raw", &path, "--filename", "-"], &eviction)?;
    }
    let evicted: BTreeSet<_> = before.iter().map(|pod| pod.name().to_owned()).collect();
    let after = eventually("evicted pods are replaced", PATIENCE, || {
        let pods = cluster.pods("app=evicted")?;
        ensure!(pods.iter().all(|pod| !evicted.contains(pod.name())), "an evicted pod is still there");
        ensure!(pods.len() == before.len(), "{} pods run", pods.len());
        Ok(pods)
    })?;
    cluster.wait_rolled_out("deployment/evicted")?;
    for client in &clients {
        for pod in &after {
            assert_eq!(web::ask(client, (pod.ip(), POD_PORT).into())?.pod, pod.name());
        }
    }
    Ok(())
}

#[test]
fn two_hundred_pods_come_and_go() -> TestResult {
    const PODS: usize = 200;
    let cluster = KubeCluster::attach()?;
    let clients = web_pods(&cluster)?;
    let many = Objects::apply(
        &cluster,
        r#"{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "many"}, "spec": {
            "replicas": 200, "selector": {"matchLabels": {"app": "many"}},
            "template": {"metadata": {"labels": {"app": "many"}}, "spec": {
                "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
                "containers": [{"name": "web", "image": "test-bed/busybox:1", "imagePullPolicy": "Never",
                    "command": ["httpd", "-f", "-p", "8080", "-h", "/www"]}]}}}}"#,
    )?;
    cluster.wait_rolled_out("deployment/many")?;
    let pods = cluster.pods("app=many")?;
    assert_eq!(pods.len(), PODS);
    let addresses: BTreeSet<_> = pods.iter().map(Host::ip).collect();
    assert_eq!(addresses.len(), PODS, "every pod has an address of its own");
    for (number, pod) in pods.iter().enumerate() {
        let client = &clients[number % clients.len()];
        assert_eq!(web::ask(client, (pod.ip(), POD_PORT).into())?.pod, pod.name());
    }
    drop((pods, many));
    // Only the web servers' interfaces stay.
    eventually("the pods' interfaces are gone", 2 * PATIENCE, || {
        let ports =
            cluster.nodes().iter().map(|node| Ok(node.exec("ls /sys/class/net/cni0/brif")?.lines().count()));
        let ports = ports.sum::<Result<usize>>()?;
        ensure!(ports == clients.len(), "{ports} interfaces are there");
        Ok(())
    })?;
    Ok(())
}
