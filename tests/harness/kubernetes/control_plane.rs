//! The control plane: etcd, kube-apiserver, kube-controller-manager and kube-scheduler, on a machine of its own.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::kubectl::Kubectl;
use super::service::Service;
use super::{certificates, kubeconfig};
use crate::cluster::Node;
use crate::etcd::{Etcd, EtcdBuilder};
use crate::netns::NetNs;
use crate::wait::eventually;

/// The addresses of pods. Each node gets a /24.
pub(super) const CLUSTER_CIDR: &str = "10.244.0.0/16";
const SERVICE_CIDR: &str = "10.96.0.0/16";
/// The address of the service `kubernetes`, the first of the range.
const KUBERNETES: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The kubeconfig in the cluster's folder.
pub(super) const KUBECONFIG: &str = "kubeconfig";
/// The folder of the control plane in the cluster's.
pub(super) const FOLDER: &str = "control-plane";
const API_SERVER: &str = "kube-apiserver";
const START_LIMIT: Duration = Duration::from_secs(60);

/// Starts it in a node's network namespace. Its processes end with that; etcd's data is gone with the guard.
pub(super) fn start(cluster: &Path, node: &Node) -> Result<Etcd> {
    let folder = cluster.join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    certificates::make(&folder, node.ip(), KUBERNETES)?;
    let file = |name: &str| folder.join(name);
    let user = json!({"client-certificate": file("admin.crt"), "client-key": file("admin.key")});
    let server = format!("https://{}:6443", node.ip());
    kubeconfig::write(&cluster.join(KUBECONFIG), &server, &file("ca.crt"), &user)?;
    let etcd = EtcdBuilder::default().arg("--unsafe-no-fsync");
    let etcd = etcd.start_in(node.netns(), IpAddr::V4(Ipv4Addr::LOCALHOST), &node.workdir)?;
    api_server(cluster, &folder, node.ip(), &etcd.endpoint())?.start(node.netns())?;
    Ok(etcd)
}

/// Starts the controllers, once the API server answers.
pub(super) fn start_controllers(cluster: &Path, node: &Node) -> Result<()> {
    let folder = cluster.join(FOLDER);
    for service in [controllers(cluster, &folder)?, scheduler(cluster, &folder)?] {
        service.start(node.netns())?;
    }
    Ok(())
}

/// Waits until the API server answers.
pub(super) fn wait_ready(cluster: &Path, kubectl: &Kubectl) -> Result<()> {
    let service = Service::find(&cluster.join(FOLDER), API_SERVER, false);
    let ready =
        eventually("the API server is ready", START_LIMIT, || kubectl.run("get --raw /readyz").map(drop));
    ready.with_context(|| service.tail())
}

/// Kills the API server.
pub(super) fn stop_api_server(cluster: &Path) -> Result<()> {
    Service::find(&cluster.join(FOLDER), API_SERVER, false).stop()
}

/// Starts the API server again.
pub(super) fn start_api_server(cluster: &Path, netns: &NetNs) -> Result<()> {
    Service::find(&cluster.join(FOLDER), API_SERVER, false).start(netns)
}

/// Fails, with the end of its log, if a process has ended.
pub(super) fn ensure_running(cluster: &Path) -> Result<()> {
    let folder = cluster.join(FOLDER);
    let names = [API_SERVER, "kube-controller-manager", "kube-scheduler"];
    names.iter().try_for_each(|name| Service::find(&folder, name, false).ensure_running())
}

fn api_server(cluster: &Path, folder: &Path, ip: Ipv4Addr, etcd: &str) -> Result<Service> {
    let file = |name: &str| folder.join(name).display().to_string();
    let flags = [
        format!("--etcd-servers={etcd}"),
        "--bind-address=0.0.0.0".to_owned(),
        "--secure-port=6443".to_owned(),
        format!("--advertise-address={ip}"),
        format!("--client-ca-file={}", file("ca.crt")),
        format!("--tls-cert-file={}", file("apiserver.crt")),
        format!("--tls-private-key-file={}", file("apiserver.key")),
        format!("--cert-dir={}", folder.display()),
        format!("--kubelet-client-certificate={}", file("admin.crt")),
        format!("--kubelet-client-key={}", file("admin.key")),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        format!("--service-account-key-file={}", file("accounts.pub")),
        format!("--service-account-signing-key-file={}", file("accounts.key")),
        format!("--service-cluster-ip-range={SERVICE_CIDR}"),
        "--authorization-mode=RBAC".to_owned(),
        "--allow-privileged=true".to_owned(),
    ];
    service(cluster, folder, API_SERVER, &flags)
}

fn controllers(cluster: &Path, folder: &Path) -> Result<Service> {
    let file = |name: &str| folder.join(name).display().to_string();
    let flags = [
        format!("--kubeconfig={}", cluster.join(KUBECONFIG).display()),
        "--leader-elect=false".to_owned(),
        "--allocate-node-cidrs=true".to_owned(),
        format!("--cluster-cidr={CLUSTER_CIDR}"),
        format!("--service-cluster-ip-range={SERVICE_CIDR}"),
        format!("--service-account-private-key-file={}", file("accounts.key")),
        format!("--root-ca-file={}", file("ca.crt")),
        format!("--cert-dir={}", folder.display()),
    ];
    service(cluster, folder, "kube-controller-manager", &flags)
}

fn scheduler(cluster: &Path, folder: &Path) -> Result<Service> {
    let flags = [
        format!("--kubeconfig={}", cluster.join(KUBECONFIG).display()),
        "--leader-elect=false".to_owned(),
        format!("--cert-dir={}", folder.display()),
    ];
    service(cluster, folder, "kube-scheduler", &flags)
}

fn service(cluster: &Path, folder: &Path, name: &str, flags: &[String]) -> Result<Service> {
    let binary = cluster.join("bin").join(name).display().to_string();
    let words: Vec<_> = std::iter::once(binary).chain(flags.iter().cloned()).collect();
    Service::outside(folder, name, &words)
}
