//! The Helm chart.

use std::path::Path;

use anyhow::{Context as _, Result};
use flannel_agent::config::NetworkConfig;
use flannel_tests::{TestResult, helm};
use serde_json::{Value, json};

use super::objects::Objects;
use super::{NAMESPACE, deploy, manifest, read};

fn render(values: &Value, namespace: &str) -> Result<String> {
    helm::render(&deploy("helm/flannel"), namespace, values, Path::new(env!("CARGO_TARGET_TMPDIR")))
}

fn objects(values: &Value) -> Result<Objects> {
    Objects::check(&render(values, NAMESPACE)?, NAMESPACE)
}

#[test]
fn without_values_it_is_the_manifest_without_its_namespace() -> TestResult {
    let mut expected = manifest()?;
    expected.0.retain(|(kind, _), _| kind != "Namespace");
    assert_eq!(objects(&json!({}))?, expected);
    Ok(())
}

#[test]
fn its_version_is_the_agents() -> TestResult {
    let chart = read("helm/flannel/Chart.yaml")?;
    for key in ["version", "appVersion"] {
        let line = format!("{key}: {}", env!("CARGO_PKG_VERSION"));
        assert!(chart.lines().any(|found| found == line), "no line `{line}` in Chart.yaml");
    }
    Ok(())
}

#[test]
fn values_of_the_network_reach_net_conf() -> TestResult {
    let table = [
        (
            json!({}),
            json!({"Network": "10.244.0.0/16", "EnableNFTables": false, "Backend": {"Type": "vxlan"}}),
        ),
        (
            json!({"podCidrv6": "fd00::/56", "flannel": {"enableNFTables": true, "backend": "host-gw"}}),
            json!({
                "Network": "10.244.0.0/16", "IPv6Network": "fd00::/56", "EnableIPv6": true, "EnableNFTables": true,
                "Backend": {"Type": "host-gw"},
            }),
        ),
        (
            json!({"podCidr": "", "podCidrv6": "fd00::/56"}),
            json!({
                "EnableIPv4": false, "IPv6Network": "fd00::/56", "EnableIPv6": true, "EnableNFTables": false,
                "Backend": {"Type": "vxlan"},
            }),
        ),
        (
            json!({"flannel": {
                "backendPort": 4789, "mtu": 8951, "vni": 4096, "GBP": true, "directRouting": true, "macPrefix": "0E-2A",
            }}),
            json!({
                "Network": "10.244.0.0/16", "EnableNFTables": false,
                "Backend": {
                    "Type": "vxlan", "Port": 4789, "MTU": 8951, "VNI": 4096, "GBP": true, "DirectRouting": true,
                    "MacPrefix": "0E-2A",
                },
            }),
        ),
        (
            json!({"flannel": {"backend": "udp", "backendPort": 8286, "privileged": true}}),
            json!({
                "Network": "10.244.0.0/16", "EnableNFTables": false, "Backend": {"Type": "udp", "Port": 8286},
            }),
        ),
    ];
    for (values, expected) in table {
        let objects = objects(&values)?;
        assert_eq!(objects.network(), &expected, "{values}");
        let network = expected.to_string();
        NetworkConfig::parse(&network).with_context(|| network.clone())?;
    }
    Ok(())
}

#[test]
fn values_of_the_agent_reach_its_pods() -> TestResult {
    let objects = objects(&json!({
        "global": {"imagePullSecrets": [{"name": "registry"}]},
        "flannel": {
            "image": {"repository": "registry.test/flannel-agent", "tag": "v9", "pullPolicy": "Always"},
            "args": ["--kube-subnet-mgr", "--iface=eth1"], "healthz": {"ip": "0.0.0.0", "port": 9000},
            "cniBinDir": "/usr/lib/cni", "cniConfDir": "/etc/rancher/cni", "nodeSelector": {"role": "worker"},
            "tolerations": [], "maxUnavailable": 3, "resources": {"limits": {"memory": "200Mi"}},
        },
    }))?;
    assert_eq!(objects.images(), ["registry.test/flannel-agent:v9"; 3]);
    let (pod, agent) = (objects.pod(), &objects.pod()["containers"][0]);
    let flags = ["--kube-subnet-mgr", "--iface=eth1", "--healthz-ip=0.0.0.0", "--healthz-port=9000"];
    assert_eq!(agent["args"], json!(flags));
    assert_eq!(agent["imagePullPolicy"], "Always");
    assert_eq!(
        agent["livenessProbe"]["httpGet"],
        json!({"path": "/healthz", "port": "healthz", "scheme": "HTTP"})
    );
    assert_eq!(agent["resources"]["limits"]["memory"], "200Mi");
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "registry"}]));
    assert_eq!(pod["nodeSelector"], json!({"role": "worker"}));
    assert_eq!(pod["tolerations"], Value::Null);
    for folder in ["/usr/lib/cni", "/etc/rancher/cni"] {
        let volumes = pod["volumes"].as_array().context("the pod has volumes")?;
        assert!(volumes.iter().any(|volume| volume["hostPath"]["path"] == folder), "{folder}");
    }
    let daemons = objects.get("DaemonSet", "kube-flannel-ds");
    assert_eq!(daemons["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], 3);
    Ok(())
}

#[test]
fn what_is_switched_off_is_left_out() -> TestResult {
    let objects = objects(&json!({"flannel": {
        "dataplane": "netlink", "healthz": {"port": 0}, "skipCNIConfigInstallation": true,
    }}))?;
    let text = objects.pod().to_string();
    for absent in ["/sys/fs/bpf", "prepare-node", "BPF", "livenessProbe", "healthz", "/etc/cni/net.d"] {
        assert!(!text.contains(absent), "{absent}: {text}");
    }
    let install = &objects.pod()["initContainers"][0];
    assert_eq!(install["command"], json!(["/bin/cp"]));
    assert_eq!(install["args"], json!(["-f", "/flannel", "/opt/cni/bin/flannel"]));
    Ok(())
}

#[test]
fn a_value_that_cannot_work_is_refused_with_a_reason() -> TestResult {
    for (values, reason) in [
        (
            json!({"backend": "wireguard"}),
            "choose one of vxlan, host-gw, udp, alloc, aws-vpc, gce and ali-vpc",
        ),
        (json!({"backend": "udp"}), "set flannel.privileged to true"),
    ] {
        let error = render(&json!({"flannel": values}), NAMESPACE).err().context("it is rendered")?;
        assert!(format!("{error:#}").contains(reason), "{error:#}");
    }
    Ok(())
}

#[test]
fn its_objects_are_in_the_namespace_of_the_release() -> TestResult {
    let objects = Objects::check(&render(&json!({}), "elsewhere")?, "elsewhere")?;
    let namespaced = objects.0.values().filter_map(|object| object["metadata"]["namespace"].as_str());
    assert_eq!(namespaced.collect::<Vec<_>>(), ["elsewhere"; 3]);
    let subjects = &objects.get("ClusterRoleBinding", "flannel")["subjects"];
    assert_eq!(subjects, &json!([{"kind": "ServiceAccount", "name": "flannel", "namespace": "elsewhere"}]));
    Ok(())
}
