//! Starts a cluster with the agent as its network, proves that it works, and keeps it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flannel_tests::kubernetes::web::{self, WEB};
use flannel_tests::kubernetes::{Binaries, KubeCluster, KubePod, Options, RunningCluster};
use flannel_tests::{Host, eventually, failure, interrupt};
use serde_json::Value;

use super::show;
use crate::architecture::Architecture;
use crate::dist::share;
use crate::image::{self, Agent, Compression};
use crate::phase;
use crate::workspace::{agent, cargo, root, target};

/// Nodes of a cluster, unless the user wants another number.
pub(crate) const NODES: u8 = 3;
/// The manifest, from the workspace's folder.
const MANIFEST: &str = "deploy/kube-flannel.yml";
/// Limit until all nodes are Ready, and all pods run.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(500);
/// Limit until a server answers.
const ANSWER: Duration = Duration::from_secs(10);

/// Starts a cluster, shows it, proves it, and keeps it until Ctrl-C unless `once` is set.
pub(super) fn run(binaries: &Binaries, nodes: u8, once: bool) -> Result<()> {
    phase::run("build of the agent", &mut cargo(["build", "--package", "flannel-agent"]))?;
    interrupt::catch()?;
    let cluster = start(binaries, nodes).inspect_err(|_| failure::declare())?;
    let proof = prove(&cluster).and_then(|()| show::cluster(&cluster)).inspect_err(|_| failure::declare());
    if proof.is_ok() && !once && !interrupt::came() {
        show::hints(&cluster);
        interrupt::wait()?;
    }
    phase::measured("removal of everything", || {
        drop(cluster);
        Ok(())
    })?;
    proof
}

/// Starts a cluster with the agent as it was built for tests, and waits until all nodes are Ready.
pub(crate) fn start(binaries: &Binaries, nodes: u8) -> Result<RunningCluster> {
    let images = [agent_image()?];
    let options = Options { binaries, nodes: nodes.into(), images: &images };
    let cluster = phase::measured("control plane and nodes", || RunningCluster::start(&options))?;
    phase::measured(&format!("network by {MANIFEST}"), || {
        cluster.kubectl().run(&format!("apply --filename {}", root().join(MANIFEST).display()))?;
        until_all("nodes", "Ready", || nodes_ready(&cluster))?;
        until_all("pods of the agent", "ready", || pods_ready(&cluster, "--namespace kube-flannel"))
    })?;
    Ok(cluster)
}

fn agent_image() -> Result<PathBuf> {
    let path = target()?.join("kube-image.tar");
    let binary = agent()?;
    let agent = Agent { binary: &binary, share: &share::write(&binary)? };
    image::make(Architecture::native()?, agent, Compression::None, &path)?;
    Ok(path)
}

/// A number of things that are as they should be, and the number of all.
struct Progress {
    done: usize,
    all: usize,
}

/// Waits until all of them are, and says how many are whenever that changes.
fn until_all(things: &str, what: &str, look: impl Fn() -> Result<Progress>) -> Result<()> {
    let (start, mut said) = (Instant::now(), None);
    loop {
        let Progress { done, all } = look()?;
        if said.replace((done, all)) != Some((done, all)) {
            phase::note(&format!("{done} of {all} {things} {what}"));
        }
        if done == all && all > 0 {
            return Ok(());
        }
        ensure!(!interrupt::came(), "interrupted");
        ensure!(start.elapsed() < PATIENCE, "{done} of {all} {things} are {what} after {PATIENCE:?}");
        std::thread::sleep(PAUSE);
    }
}

fn nodes_ready(cluster: &KubeCluster) -> Result<Progress> {
    counted(&cluster.kubectl().json("get nodes")?)
}

fn pods_ready(cluster: &KubeCluster, which: &str) -> Result<Progress> {
    counted(&cluster.kubectl().json(&format!("get pods {which}"))?)
}

/// Counts the objects whose condition Ready is true.
fn counted(list: &Value) -> Result<Progress> {
    let items = list["items"].as_array().context("kubectl printed no list")?;
    let done = items.iter().filter(|item| {
        let conditions = item["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    });
    Ok(Progress { done: done.count(), all: items.len() })
}

/// Checks that pods reach each other by their addresses, by their service, and by every node's port.
fn prove(cluster: &KubeCluster) -> Result<()> {
    phase::measured("a web server on every node", || {
        cluster.kubectl().apply(WEB)?;
        cluster.wait_rolled_out("daemonset/web")
    })?;
    let pods = cluster.pods("app=web")?;
    phase::measured("every pod reaches every pod", || reach_each_other(&pods))?;
    phase::measured("every pod reaches the service", || {
        pods.iter().try_for_each(|pod| answer(pod, web::SERVICE))
    })?;
    phase::measured("the service is at a port of every node", || {
        let outside = cluster.outside()?;
        cluster.nodes().iter().try_for_each(|node| answer(&outside, (node.ip(), web::NODE_PORT).into()))
    })
}

fn reach_each_other(pods: &[KubePod]) -> Result<()> {
    for from in pods {
        for to in pods {
            ensure!(!interrupt::came(), "interrupted");
            answer(from, (to.ip(), web::POD_PORT).into())?;
        }
    }
    phase::note(&format!("{0} of {0} pairs", pods.len() * pods.len()));
    Ok(())
}

fn answer(from: &dyn Host, server: std::net::SocketAddr) -> Result<()> {
    eventually("an answer", ANSWER, || web::ask(from, server)).map(drop)
}
