//! From the agent's manifest to flannel's, with the agent's image, and back: by the commands of
//! docs/migrating-from-flannel.md.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use flannel_tests::kubernetes::{KubeCluster, KubeNode, KubePod};
use flannel_tests::process::{LIMIT, finish};
use flannel_tests::traffic::{Steady, ping};
use flannel_tests::{Host as _, TestResult, eventually};
use serde_json::{Value, json};

use super::{AGENT, AGENT_PODS, ROLLOUT, replace_agents, web_pods};
use crate::overlay::ensure_whole;

const PATIENCE: Duration = Duration::from_secs(60);
const PACE: Duration = Duration::from_millis(2);
/// The edits of the manifest for nodes that change when their pod is deleted.
const ON_DELETE: [&str; 2] = ["s/type: RollingUpdate/type: OnDelete/", "/rollingUpdate:/,/maxUnavailable/d"];
/// The edit of the ConfigMap that takes the programs away.
const WITHOUT_BPF: &str = r#"s/"Type": "vxlan"/"Dataplane": "netlink", &/"#;

fn manifest() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("deploy").join("kube-flannel.yml")
}

/// A cluster that gets the agent's manifest again when dropped.
struct Migration {
    cluster: KubeCluster,
    pods: Vec<KubePod>,
}

impl Migration {
    fn begin() -> Result<Self> {
        let cluster = KubeCluster::attach()?;
        Ok(Self { pods: web_pods(&cluster)?, cluster })
    }

    fn apply_manifest(&self) -> Result<()> {
        self.cluster.kubectl().run(&format!("apply --filename {}", manifest().display()))?;
        eventually("the agents are rolled out", ROLLOUT, || self.cluster.wait_rolled_out(AGENT))
    }

    /// `kubectl get configmap ... -o yaml | sed ... | kubectl apply -f -`, and a restart of the agents.
    fn take_bpf_away(&self) -> Result<()> {
        let kubectl = self.cluster.kubectl();
        let map = kubectl.run("get configmap kube-flannel-cfg --namespace kube-flannel --output yaml")?;
        let changed = finish(Command::new("sed").arg(WITHOUT_BPF), &map, LIMIT)?;
        ensure!(changed != map, "nothing was replaced in {map}");
        kubectl.apply(&changed)?;
        kubectl.run(&format!("rollout restart {AGENT}"))?;
        replace_agents(&self.cluster)
    }

    /// Waits until exactly these nodes have programs.
    fn ensure_bpf_on(&self, nodes: &[KubeNode]) -> Result<()> {
        eventually("programs are attached where they should be", PATIENCE, || {
            for node in self.cluster.nodes() {
                let wanted = nodes.iter().any(|with| with.name() == node.name());
                let present = node.path("/sys/fs/bpf/flannel/1").exists();
                ensure!(present == wanted, "{} has programs: {present}", node.name());
            }
            Ok(())
        })
    }

    /// Checks that each pod reaches each other one.
    fn ensure_connected(&self) -> Result<()> {
        for from in &self.pods {
            self.pods.iter().try_for_each(|to| ping(from, to.ip()).map(drop))?;
        }
        Ok(())
    }
}

impl Drop for Migration {
    fn drop(&mut self) {
        if let Err(error) = self.apply_manifest() {
            eprintln!("the agent's manifest was not applied again: {error:#}");
        }
    }
}

/// What differs in flannel's manifest (v0.28): a role that reads pods, and a DaemonSet without BPF, whose containers call
/// the programs of flannel's images.
fn flannels_objects(image: &str) -> Value {
    let rule =
        |resource: &str, verbs: &[&str]| json!({"apiGroups": [""], "resources": [resource], "verbs": verbs});
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "flannel", "labels": {"k8s-app": "flannel"}},
        "rules": [
            rule("pods", &["get"]),
            rule("nodes", &["get", "list", "watch"]),
            rule("nodes/status", &["patch"]),
        ],
    });
    json!({"apiVersion": "v1", "kind": "List", "items": [role, flannels_daemonset(image)]})
}

fn flannels_daemonset(image: &str) -> Value {
    let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path});
    let host = |name: &str, path: &str| json!({"name": name, "hostPath": {"path": path}});
    let field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let probe = |path: &str| json!({"httpGet": {"path": path, "port": "healthz"}, "periodSeconds": 10});
    let labels = json!({"tier": "node", "app": "flannel"});
    let install_plugin = json!({
        "name": "install-cni-plugin", "image": image,
        "command": ["cp"], "args": ["-f", "/flannel", "/opt/cni/bin/flannel"],
        "volumeMounts": [mount("cni-plugin", "/opt/cni/bin")],
    });
    let install_conflist = json!({
        "name": "install-cni", "image": image, "command": ["/opt/bin/install-conf"],
        "args": ["/etc/kube-flannel/cni-conf.json", "/etc/cni/net.d/10-flannel.conflist"],
        "volumeMounts": [mount("cni", "/etc/cni/net.d"), mount("flannel-cfg", "/etc/kube-flannel/")],
    });
    let flanneld = json!({
        "name": "kube-flannel", "image": image, "command": ["/opt/bin/flanneld"],
        "args": ["--ip-masq", "--kube-subnet-mgr", "--healthz-port=8081"],
        "ports": [{"name": "healthz", "containerPort": 8081, "protocol": "TCP"}],
        "livenessProbe": probe("/healthz"), "readinessProbe": probe("/readyz"),
        "resources": {"requests": {"cpu": "100m", "memory": "50Mi"}},
        "securityContext": {"privileged": false, "capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}},
        "env": [
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
            {"name": "EVENT_QUEUE_DEPTH", "value": "5000"},
            {"name": "CONT_WHEN_CACHE_NOT_READY", "value": "false"},
        ],
        "volumeMounts": [
            mount("run", "/run/flannel"),
            mount("flannel-cfg", "/etc/kube-flannel/"),
            mount("xtables-lock", "/run/xtables.lock"),
        ],
    });
    let lock =
        json!({"name": "xtables-lock", "hostPath": {"path": "/run/xtables.lock", "type": "FileOrCreate"}});
    let config = json!({"name": "flannel-cfg", "configMap": {"name": "kube-flannel-cfg"}});
    let pod = json!({
        "hostNetwork": true,
        "priorityClassName": "system-node-critical",
        "tolerations": [{"operator": "Exists", "effect": "NoSchedule"}],
        "serviceAccountName": "flannel",
        "initContainers": [install_plugin, install_conflist],
        "containers": [flanneld],
        "volumes": [
            host("run", "/run/flannel"), host("cni-plugin", "/opt/cni/bin"), host("cni", "/etc/cni/net.d"), config, lock,
        ],
    });
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "kube-flannel-ds", "namespace": "kube-flannel", "labels": labels},
        "spec": {
            "selector": {"matchLabels": {"app": "flannel"}},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    })
}

#[test]
fn nodes_change_to_flannels_manifest_and_back_without_loss() -> TestResult {
    let migration = Migration::begin()?;
    let Migration { cluster, pods } = &migration;
    let daemonset = cluster.kubectl().json(&format!("get {AGENT}"))?;
    let image =
        daemonset["spec"]["template"]["spec"]["containers"][0]["image"].as_str().context("no image")?;
    migration.ensure_bpf_on(cluster.nodes())?;
    let streams = [Steady::start(&pods[0], &pods[1], PACE)?, Steady::start(&pods[1], &pods[0], PACE)?];
    // "Back": first without BPF, then flannel's manifest.
    migration.take_bpf_away()?;
    migration.ensure_bpf_on(&[])?;
    cluster.kubectl().apply(&flannels_objects(image).to_string())?;
    replace_agents(cluster)?;
    migration.ensure_bpf_on(&[])?;
    migration.ensure_connected()?;
    cluster.wait_nodes_ready()?;
    // To the agent's manifest, node by node.
    let mut edit = Command::new("sed");
    edit.args(ON_DELETE.iter().flat_map(|script| ["-e", script])).arg(manifest());
    cluster.kubectl().apply(&finish(&mut edit, "", LIMIT)?)?;
    for (number, node) in cluster.nodes().iter().enumerate() {
        migration.ensure_bpf_on(&cluster.nodes()[..number])?;
        cluster.kubectl().run(&format!(
            "delete pod --namespace kube-flannel --field-selector spec.nodeName={}",
            node.name()
        ))?;
        migration.ensure_bpf_on(&cluster.nodes()[..=number])?;
        migration.ensure_connected()?;
    }
    migration.apply_manifest()?;
    assert_eq!(cluster.pods(AGENT_PODS)?.len(), cluster.nodes().len(), "one agent on each node");
    for stream in streams {
        ensure_whole(&stream.stop()?)?;
    }
    Ok(())
}
