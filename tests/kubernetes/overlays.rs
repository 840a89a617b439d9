//! The kustomize overlays `privileged` and `nftables`, applied to the running cluster by the commands of docs/kubernetes.md.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::kubernetes::web::{self, POD_PORT};
use flannel_tests::kubernetes::{KubeCluster, KubeNode, KubePod};
use flannel_tests::traffic::ping;
use flannel_tests::{Host as _, TestResult, eventually};

use super::{AGENT, AGENT_PODS, delivered, node_of, replace_agents, web_pods};

const PATIENCE: Duration = Duration::from_secs(30);
/// The agent's capabilities by the manifest, as bits of /proc/PID/status: NET_ADMIN, NET_RAW, PERFMON and BPF.
const LISTED: u64 = 1 << 12 | 1 << 13 | 1 << 38 | 1 << 39;
/// SYS_ADMIN, which privileged containers have.
const SYS_ADMIN: u64 = 1 << 21;
/// What kubectl prints if a manifest changes nothing about the agents' pods.
const UNCHANGED: &str = "daemonset.apps/kube-flannel-ds unchanged";

/// A cluster that gets the kustomize base again when dropped.
struct Overlays {
    cluster: KubeCluster,
    pods: Vec<KubePod>,
}

impl Overlays {
    fn begin() -> Result<Self> {
        let cluster = KubeCluster::attach()?;
        Ok(Self { pods: web_pods(&cluster)?, cluster })
    }

    /// Applies a folder of deploy/kustomize, and waits until all agents have started with it.
    fn apply(&self, folder: &str) -> Result<()> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kustomize").join(folder);
        let kubectl = self.cluster.kubectl();
        let printed = kubectl.run(&format!("apply --kustomize {}", folder.display()))?;
        if !printed.contains(" configured") {
            return Ok(());
        }
        // Agents change over to nftables when they start.
        if printed.contains(UNCHANGED) {
            kubectl.run(&format!("rollout restart {AGENT}"))?;
        }
        replace_agents(&self.cluster)
    }

    /// Checks that each pod reaches each other one, and that packets between nodes skip the host stack.
    fn ensure_full_dataplane(&self) -> Result<()> {
        let [from, to, ..] = &self.pods[..] else { anyhow::bail!("the cluster has less than two pods") };
        let node = node_of(&self.cluster, to)?;
        let before = delivered(node)?;
        eventually("packets skip the host stack", PATIENCE, || {
            web::ask(from, (to.ip(), POD_PORT).into())?;
            ping(from, to.ip())?;
            ensure!(delivered(node)? > before, "the programs have delivered no packet to {}", to.name());
            Ok(())
        })?;
        for from in &self.pods {
            for to in &self.pods {
                let answer = web::ask(from, (to.ip(), POD_PORT).into())?;
                ensure!(
                    answer.pod == to.name() && answer.client == from.ip(),
                    "{answer:?} for {}",
                    from.ip()
                );
            }
        }
        Ok(())
    }

    /// Checks the capabilities of the agents on all nodes.
    fn ensure_capabilities(&self, right: impl Fn(u64) -> bool) -> Result<()> {
        for agent in self.cluster.pods(AGENT_PODS)? {
            let node = node_of(&self.cluster, &agent)?;
            let status = std::fs::read_to_string(node.path(&format!("/proc/{}/status", agent.pid())))?;
            let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
            let bits = u64::from_str_radix(bits.context("no capabilities")?.trim(), 16)?;
            ensure!(right(bits), "{} has the capabilities {bits:#x}", agent.name());
        }
        Ok(())
    }

    /// Waits until the agents' rules are in one kind of firewall on each node, and no longer in the other.
    fn wait_rules(&self, nftables: bool) -> Result<()> {
        self.cluster.nodes().iter().try_for_each(|node| {
            eventually("the rules are where they should be", PATIENCE, || ensure_rules(node, nftables))
        })
    }

    /// Fails if an agent says that it cannot do something.
    fn ensure_nothing_is_refused(&self) -> Result<()> {
        for agent in self.cluster.pods(AGENT_PODS)? {
            let log =
                self.cluster.kubectl().run(&format!("logs --namespace kube-flannel {}", agent.name()))?;
            ensure!(!log.is_empty(), "{} has logged nothing", agent.name());
            let refused = log.lines().find(|line| line.contains("cannot") || line.contains("not permitted"));
            ensure!(refused.is_none(), "{} says {refused:?}", agent.name());
        }
        Ok(())
    }
}

impl Drop for Overlays {
    fn drop(&mut self) {
        if let Err(error) = self.apply("base") {
            eprintln!("the kustomize base was not applied again: {error:#}");
        }
    }
}

fn ensure_rules(node: &KubeNode, nftables: bool) -> Result<()> {
    let tables = node.netns().exec("nft list tables")?;
    ensure!(tables.contains("table ip flannel-ipv4") == nftables, "on {}: {tables}", node.name());
    if nftables {
        let rules = node.netns().exec("nft list table ip flannel-ipv4")?;
        ensure!(rules.contains("masquerade") && rules.contains("accept"), "on {}: {rules}", node.name());
    }
    for table in ["nat", "filter"] {
        let rules = node.netns().exec(&format!("iptables-save -t {table}"))?;
        ensure!(rules.contains(":FLANNEL-") != nftables, "on {}: {rules}", node.name());
    }
    Ok(())
}

#[test]
fn overlays_change_the_agents_of_a_running_cluster_and_the_base_changes_them_back() -> TestResult {
    let overlays = Overlays::begin()?;
    overlays.ensure_capabilities(|bits| bits == LISTED)?;
    overlays.apply("overlays/privileged")?;
    overlays.ensure_capabilities(|bits| bits & SYS_ADMIN != 0)?;
    overlays.ensure_full_dataplane()?;
    overlays.wait_rules(false)?;
    // Takes the privileges away again.
    overlays.apply("overlays/nftables")?;
    overlays.ensure_capabilities(|bits| bits == LISTED)?;
    overlays.wait_rules(true)?;
    overlays.ensure_full_dataplane()?;
    overlays.ensure_nothing_is_refused()?;
    overlays.apply("base")?;
    overlays.wait_rules(false)?;
    overlays.ensure_full_dataplane()?;
    overlays.ensure_nothing_is_refused()?;
    Ok(())
}
