//! Command lines and configuration files of containerd, kubelet and kube-proxy.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::cluster::Node;
use crate::kubernetes::control_plane::{CLUSTER_CIDR, KUBECONFIG};
use crate::kubernetes::service::Service;

const CONTAINERD: &str = include_str!("containerd.toml");

/// Writes them into the node's folder.
pub(super) fn write(folder: &Path, node: &Node, cgroups: &[PathBuf], first: u32) -> Result<()> {
    let cluster = folder.parent().context("a node's folder lies in its cluster's")?;
    let kubeconfig = cluster.join(KUBECONFIG);
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok::<_, anyhow::Error>(path.display().to_string())
    };
    let containerd = file("containerd.toml", CONTAINERD)?;
    let kubelet = file("kubelet.json", &kubelet().to_string())?;
    let proxy = file("kube-proxy.json", &kube_proxy(node.name(), &kubeconfig).to_string())?;
    let binary = |name: &str| cluster.join("bin").join(name).display().to_string();
    let service =
        |name: &str, words: &[String]| Service::inside(folder, name, (cgroups, first), words).map(drop);
    service("containerd", &["containerd".to_owned(), "--config".to_owned(), containerd])?;
    service(
        "kubelet",
        &[
            binary("kubelet"),
            format!("--config={kubelet}"),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--hostname-override={}", node.name()),
            format!("--node-ip={}", node.ip()),
            "--container-runtime=remote".to_owned(),
            "--container-runtime-endpoint=unix:///run/containerd/containerd.sock".to_owned(),
        ],
    )?;
    service("kube-proxy", &[binary("kube-proxy"), format!("--config={proxy}")])
}

fn kubelet() -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "failSwapOn": false,
        "enforceNodeAllocatable": ["none"],
        // The disk is the whole machine's, and may be nearly full.
        "evictionHard": {
            "memory.available": "1Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "resolvConf": "",
        "clusterDomain": "cluster.local",
        "clusterDNS": ["10.96.0.10"],
        "nodeStatusUpdateFrequency": "5s",
        "serializeImagePulls": false,
        // By default it makes 5 requests a second, and pods that come at once wait for one another.
        "kubeAPIQPS": 50,
        "kubeAPIBurst": 100,
    })
}

fn kube_proxy(name: &str, kubeconfig: &Path) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": kubeconfig},
        "hostnameOverride": name,
        "clusterCIDR": CLUSTER_CIDR,
        // The limits of connection tracking are the whole machine's.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    })
}
