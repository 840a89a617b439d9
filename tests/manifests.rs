//! The manifests in `deploy/`: kube-flannel.yml, the kustomize overlays and the Helm chart. A real API server checks each of
//! them against its schema, fills in its defaults, and does everything but store it.

mod chart;
mod objects;
mod overlays;
mod replace;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use flannel_agent::cli::Flags;
use flannel_agent::config::NetworkConfig;
use flannel_tests::TestResult;
use serde_json::{Value, json};

use objects::Objects;

/// The namespace of the manifest.
const NAMESPACE: &str = "kube-flannel";

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(deploy(path)).with_context(|| format!("read deploy/{path}"))
}

/// Returns the objects of kube-flannel.yml.
fn manifest() -> Result<Objects> {
    Objects::check(&read("kube-flannel.yml")?, NAMESPACE)
}

#[test]
fn an_object_that_does_not_fit_the_schema_is_refused() -> TestResult {
    let text = read("kube-flannel.yml")?;
    for (right, wrong) in [("hostNetwork:", "hostNetwrok:"), ("containerPort: 8081", "containerPort: many")] {
        let refused = Objects::check(&text.replacen(right, wrong, 1), NAMESPACE);
        let error = format!("{:#}", refused.err().context(wrong)?);
        assert!(error.contains("error validating data"), "{error}");
    }
    Ok(())
}

#[test]
fn the_file_to_apply_is_that_of_kustomize() -> TestResult {
    let (file, base) = (read("kube-flannel.yml")?, read("kustomize/base/kube-flannel.yml")?);
    assert!(file == base, "they differ: cp deploy/kustomize/base/kube-flannel.yml deploy/kube-flannel.yml");
    Ok(())
}

#[test]
fn the_image_is_the_one_of_this_version() -> TestResult {
    let image = format!("localhost/flannel-agent:{}", env!("CARGO_PKG_VERSION"));
    let images = manifest()?.images();
    assert!(!images.is_empty() && images.iter().all(|name| *name == image), "{image}: {images:?}");
    Ok(())
}

#[test]
fn only_the_container_that_prepares_the_node_is_privileged() -> TestResult {
    let objects = manifest()?;
    let containers = objects.containers();
    assert_eq!(containers.len(), 3);
    for container in containers {
        let privileged = container["securityContext"]["privileged"] == json!(true);
        assert_eq!(privileged, container["name"] == "prepare-node", "{container}");
    }
    let agent = &objects.pod()["containers"][0]["securityContext"]["capabilities"];
    assert_eq!(agent, &json!({"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW", "BPF", "PERFMON"]}));
    Ok(())
}

#[test]
fn every_command_is_one_that_the_agent_understands() -> TestResult {
    for container in manifest()?.containers() {
        let words =
            ["command", "args"].iter().flat_map(|part| container[part].as_array().into_iter().flatten());
        let words: Vec<_> = words.filter_map(Value::as_str).map(Into::into).collect();
        Flags::parse_from_go(words).with_context(|| container["name"].to_string())?;
    }
    Ok(())
}

#[test]
fn the_network_is_one_that_the_agent_understands() -> TestResult {
    let files = ["network.yaml"].map(|file| ["dual-stack", "nftables"].map(|name| format!("{name}/{file}")));
    let overlays = files.as_flattened().iter().map(|file| read(&format!("kustomize/overlays/{file}")));
    for text in overlays.chain([read("kube-flannel.yml")]) {
        let objects = Objects::check(&text?, NAMESPACE)?;
        let network = objects.network().to_string();
        NetworkConfig::parse(&network).with_context(|| network.clone())?;
    }
    Ok(())
}
