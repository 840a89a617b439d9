//! Agents, nodes and API servers that are replaced while traffic goes on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::kubernetes::web::{self, POD_PORT};
use flannel_tests::kubernetes::{KubeCluster, KubePod};
use flannel_tests::traffic::{Steady, TcpSession};
use flannel_tests::wait::throughout;
use flannel_tests::{Host, TestResult, eventually};

use super::{AGENT, AGENT_PODS, node_of, pod_cidr, web_pods};

const PATIENCE: Duration = Duration::from_secs(90);
/// Time between two datagrams.
const PACE: Duration = Duration::from_millis(1);
/// Time between two exchanges over TCP, and bytes of each way.
const EXCHANGE: (Duration, usize) = (Duration::from_millis(5), 32 * 1024);

/// 1000 datagrams a second each way between two pods, and exchanges over one TCP connection.
struct Load {
    streams: Vec<Steady>,
    stop: std::sync::Arc<AtomicBool>,
    tcp: JoinHandle<Result<u64>>,
}

impl Load {
    fn start(a: &KubePod, b: &KubePod) -> Result<Self> {
        // The first packets of a flow wait for neighbours. Nothing is lost then, but a test of it is another one.
        web::ask(a, (b.ip(), POD_PORT).into())?;
        let mut session = TcpSession::open(a, b)?;
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let stopped = std::sync::Arc::clone(&stop);
        let tcp = thread::spawn(move || {
            let mut bytes = 0;
            while !stopped.load(Ordering::Relaxed) {
                session.exchange(EXCHANGE.1)?;
                bytes += 2 * EXCHANGE.1 as u64;
                thread::sleep(EXCHANGE.0);
            }
            Ok(bytes)
        });
        Ok(Self { streams: vec![Steady::start(a, b, PACE)?, Steady::start(b, a, PACE)?], stop, tcp })
    }

    /// Ends it. Fails if anything was lost.
    fn stop_without_loss(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let bytes = self.tcp.join().unwrap().context("TCP")?;
        for stream in self.streams {
            let report = stream.stop()?;
            println!("{} datagrams, {bytes} bytes of TCP, longest gap {:?}", report.sent, report.longest_gap);
            ensure!(
                report.lost.is_empty(),
                "{} of {} datagrams lost: {:?}",
                report.lost.len(),
                report.sent,
                report.lost
            );
        }
        Ok(())
    }
}

#[test]
fn a_rolling_update_of_the_agent_loses_no_packet() -> TestResult {
    let cluster = KubeCluster::attach()?;
    let pods = web_pods(&cluster)?;
    let load = Load::start(&pods[0], &pods[1])?;
    let before = cluster.pods(AGENT_PODS)?;
    cluster.kubectl().run(&format!("rollout restart {AGENT}"))?;
    cluster.wait_rolled_out(AGENT)?;
    let after = cluster.pods(AGENT_PODS)?;
    load.stop_without_loss()?;
    assert!(
        after.iter().all(|new| before.iter().all(|old| old.name() != new.name())),
        "every agent is a new one"
    );
    Ok(())
}

#[test]
fn pods_keep_talking_while_the_api_server_is_away_and_an_agent_is_restarted() -> TestResult {
    let cluster = KubeCluster::attach()?;
    let pods = web_pods(&cluster)?;
    let agents = cluster.pods(AGENT_PODS)?;
    let agent = agents.iter().find(|agent| agent.node() == pods[0].node()).context("no agent")?;
    let node = node_of(&cluster, agent)?;
    let load = Load::start(&pods[0], &pods[1])?;
    cluster.stop_api_server()?;
    node.exec(&format!("kill {}", agent.pid()))?;
    let pid = || {
        Ok::<_, anyhow::Error>(
            node.exec("pgrep --oldest --full ^/opt/bin/flannel-agent")?.trim().parse::<u32>()?,
        )
    };
    let new = eventually("kubelet starts the agent again", PATIENCE, || {
        let pid = pid()?;
        ensure!(pid != agent.pid(), "the old one still runs");
        Ok(pid)
    })?;
    throughout("the new agent runs without an API server", Duration::from_secs(60), || {
        ensure!(pid()? == new, "it has ended");
        Ok(())
    })?;
    cluster.start_api_server()?;
    load.stop_without_loss()?;
    cluster.wait_nodes_ready()?;
    cluster.wait_rolled_out(AGENT)?;
    cluster.wait_rolled_out("daemonset/web")?;
    Ok(())
}

#[test]
fn a_node_that_is_deleted_and_added_gets_another_subnet() -> TestResult {
    let cluster = KubeCluster::attach()?;
    web_pods(&cluster)?;
    let node = cluster.nodes().last().context("no node")?;
    let before = pod_cidr(&cluster, node)?;
    cluster.kubectl().run(&format!("delete node {}", node.name()))?;
    for other in cluster.nodes().iter().filter(|other| other.name() != node.name()) {
        eventually("the route to the deleted node is gone", PATIENCE, || {
            let routes = other.exec("ip route show dev flannel.1")?;
            ensure!(!routes.contains(&before), "{routes}");
            Ok(())
        })?;
    }
    node.restart_kubelet()?;
    let after = eventually("the node has a podCIDR again", PATIENCE, || pod_cidr(&cluster, node))?;
    assert_ne!(before, after, "the controller gave the same subnet again");
    let subnet = after.replace(".0/24", ".1/24");
    eventually("the agent has taken the new subnet", PATIENCE, || {
        let env = std::fs::read_to_string(node.path("/run/flannel/subnet.env"))?;
        ensure!(env.contains(&format!("FLANNEL_SUBNET={subnet}\n")), "{env}");
        Ok(())
    })?;
    cluster.wait_nodes_ready()?;
    // Its pods keep their addresses, at which nobody reaches them. The agent says so, and an administrator does this.
    cluster
        .kubectl()
        .run(&format!("delete pods --selector app=web --field-selector spec.nodeName={}", node.name()))?;
    let prefix = after.trim_end_matches("0/24").to_owned();
    let pods = eventually("web servers run on all nodes", PATIENCE, || {
        let pods = web_pods(&cluster)?;
        let moved = pods.iter().find(|pod| pod.node() == node.name()).context("none on the node")?;
        ensure!(moved.ip().to_string().starts_with(&prefix), "{} is not of {after}", moved.ip());
        Ok(pods)
    })?;
    for from in &pods {
        for to in &pods {
            eventually("pods reach each other", PATIENCE, || web::ask(from, (to.ip(), POD_PORT).into()))?;
        }
    }
    Ok(())
}

#[test]
fn a_node_on_the_floor_takes_part() -> TestResult {
    let cluster = KubeCluster::attach()?;
    let pods = web_pods(&cluster)?;
    let agents = cluster.pods(AGENT_PODS)?;
    let floor = agents.last().context("no agent")?;
    let back = Restored(&cluster);
    // Only agents that are deleted get the new flags.
    patch_agent(
        &cluster,
        r#"[{"op": "replace", "path": "/spec/updateStrategy", "value": {"type": "OnDelete"}},
            {"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--dataplane=netlink"}]"#,
    )?;
    cluster.kubectl().run(&format!("delete pod {} --namespace kube-flannel", floor.name()))?;
    let node = node_of(&cluster, floor)?;
    eventually("the agent is on the floor", PATIENCE, || {
        let line = node.exec("pgrep --list-full --full ^/opt/bin/flannel-agent")?;
        ensure!(line.contains("--dataplane=netlink"), "{line}");
        let programs = node.netns().exec("tc filter show dev flannel.1 egress")?;
        ensure!(programs.trim().is_empty(), "{programs}");
        Ok(())
    })?;
    for from in &pods {
        for to in &pods {
            assert_eq!(web::ask(from, (to.ip(), POD_PORT).into())?.pod, to.name());
        }
    }
    cluster.kubectl().run(
        "wait --for condition=Ready --timeout 60s pod --selector app=flannel --namespace kube-flannel",
    )?;
    drop(back);
    cluster.wait_rolled_out(AGENT)?;
    Ok(())
}

/// Gives the agent's DaemonSet its flags and its update strategy back.
struct Restored<'a>(&'a KubeCluster);

impl Drop for Restored<'_> {
    fn drop(&mut self) {
        let undone = self.0.kubectl().run(&format!("rollout undo {AGENT}"));
        let strategy = r#"[{"op": "replace", "path": "/spec/updateStrategy", "value": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}}]"#;
        if let Err(error) = undone.and_then(|_| patch_agent(self.0, strategy)) {
            eprintln!("{error:#}");
        }
    }
}

fn patch_agent(cluster: &KubeCluster, patch: &str) -> Result<()> {
    let arguments: Vec<_> = AGENT.split(' ').collect();
    let arguments = [&["patch"][..], &arguments, &["--type", "json", "--patch", patch]].concat();
    cluster.kubectl().run_with(&arguments, "").map(drop)
}
