//! Applying the manifest over a flannel that runs.

use std::path::Path;

use anyhow::Context as _;
use flannel_tests::kubernetes::ApiServer;
use flannel_tests::{TestResult, helm};
use serde_json::{Value, json};

use super::deploy;
use super::objects::Objects;

const NAMESPACE: &str = "replaced";

/// A DaemonSet with the names, labels and steps of flannel's.
fn flannel() -> Value {
    let labels = json!({"tier": "node", "app": "flannel"});
    let step = |name: &str| json!({"name": name, "image": "flannel", "command": ["cp"], "args": ["-f", "one", "other"]});
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "kube-flannel-ds", "namespace": NAMESPACE, "labels": labels},
        "spec": {
            "selector": {"matchLabels": {"app": "flannel"}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "hostNetwork": true,
                    "initContainers": [step("install-cni-plugin"), step("install-cni")],
                    "containers": [{
                        "name": "kube-flannel",
                        "image": "flannel",
                        "command": ["/opt/bin/flanneld"],
                        "args": ["--ip-masq", "--kube-subnet-mgr"],
                        "env": [{"name": "EVENT_QUEUE_DEPTH", "value": "5000"}],
                    }],
                },
            },
        },
    })
}

#[test]
fn a_running_flannel_is_replaced_by_the_manifest() -> TestResult {
    let server = ApiServer::shared()?;
    // It makes the namespace.
    Objects::check(&flannel().to_string(), NAMESPACE)?;
    server.kubectl(&["apply", "--filename=-"], &flannel().to_string())?;
    let chart =
        helm::render(&deploy("helm/flannel"), NAMESPACE, &json!({}), Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    let applied = Objects::check(&chart, NAMESPACE)?;
    let names = |objects: &Objects| -> Vec<String> {
        objects.containers().iter().map(|container| container["name"].to_string()).collect()
    };
    assert_eq!(names(&applied), [r#""prepare-node""#, r#""install-cni""#, r#""kube-flannel""#]);
    let agent = applied.pod()["containers"][0].clone();
    assert_eq!(agent["command"], json!(["/opt/bin/flannel-agent"]));
    let variables = agent["env"].as_array().context("the agent has variables")?;
    assert_eq!(variables.iter().map(|variable| &variable["name"]).collect::<Vec<_>>(), ["NODE_NAME"]);
    server.kubectl(&["delete", "--namespace", NAMESPACE, "daemonset", "kube-flannel-ds"], "").map(drop)?;
    Ok(())
}
