//! The kustomize base and its overlays, built by kubectl.

use anyhow::Result;
use flannel_tests::TestResult;
use flannel_tests::kubernetes::ApiServer;
use serde_json::{Value, json};

use super::objects::Objects;
use super::{NAMESPACE, deploy, manifest};

fn kustomize(folder: &str) -> Result<Objects> {
    let folder = deploy(&format!("kustomize/{folder}"));
    let text = ApiServer::shared()?.kubectl(&["kustomize", &folder.to_string_lossy()], "")?;
    Objects::check(&text, NAMESPACE)
}

/// Returns the overlay's objects. Those that it should not change are compared to the manifest's.
fn overlay(name: &str, changed: &str) -> Result<Objects> {
    let (base, objects) = (manifest()?, kustomize(&format!("overlays/{name}"))?);
    assert!(base.0.keys().eq(objects.0.keys()), "{name}: {:?}", objects.0.keys());
    for (key, object) in &base.0 {
        assert_eq!(objects.0[key] == *object, key.0 != changed, "{name}: {key:?}");
    }
    Ok(objects)
}

#[test]
fn the_base_is_the_manifest() -> TestResult {
    assert_eq!(kustomize("base")?, manifest()?);
    Ok(())
}

#[test]
fn dual_stack_adds_a_network() -> TestResult {
    let network = overlay("dual-stack", "ConfigMap")?.network().clone();
    assert_eq!(network["EnableIPv6"], true);
    assert_eq!(network["IPv6Network"], "fd00:10:244::/56");
    assert_eq!(network["Network"], manifest()?.network()["Network"]);
    Ok(())
}

#[test]
fn nftables_is_chosen() -> TestResult {
    assert_eq!(overlay("nftables", "ConfigMap")?.network()["EnableNFTables"], true);
    Ok(())
}

#[test]
fn the_privileged_agent_has_no_profile_and_no_list_of_capabilities() -> TestResult {
    let objects = overlay("privileged", "DaemonSet")?;
    let expected = json!({"privileged": true, "readOnlyRootFilesystem": true});
    assert_eq!(objects.pod()["containers"][0]["securityContext"], expected);
    Ok(())
}

#[test]
fn the_floor_needs_what_flannel_needs() -> TestResult {
    let objects = overlay("floor", "DaemonSet")?;
    let agent = &objects.pod()["containers"][0];
    assert_eq!(agent["securityContext"]["capabilities"]["add"], json!(["NET_ADMIN", "NET_RAW"]));
    assert!(agent["args"].as_array().is_some_and(|args| args.contains(&json!("--dataplane=netlink"))));
    assert!(objects.containers().iter().all(|container| container["securityContext"]["privileged"] == false));
    assert!(!objects.pod().to_string().contains("/sys/fs/bpf"), "{}", objects.pod());
    let base = manifest()?;
    let flags =
        |objects: &Objects| objects.pod()["containers"][0]["args"].as_array().cloned().unwrap_or_default();
    let kept: Vec<Value> = flags(&objects).into_iter().filter(|flag| flag != "--dataplane=netlink").collect();
    assert_eq!(kept, flags(&base), "the other flags are the manifest's");
    Ok(())
}
