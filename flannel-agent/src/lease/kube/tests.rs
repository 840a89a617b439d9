//! The manager against a small API server. `tests/kube_api` has what a real one can show.

mod following;
mod own_node;

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::fake::FakeApi;
use super::*;

const NETWORK: &str = r#"{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}"#;
const DATA: &str = r#"{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}"#;

/// A cluster with the node `own`, whose agent this is.
struct Bed {
    api: FakeApi,
    manager: KubeManager,
    dir: TempDir,
}

impl Bed {
    async fn new() -> Self {
        let api = FakeApi::start().await;
        api.state().put(node("own", 0));
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("net-conf.json"), NETWORK).unwrap();
        let manager = manager(&dir, |options| options.api_url = Some(api.url()));
        Self { api, manager, dir }
    }

    /// A bed whose agent has its subnet.
    async fn with_lease() -> Self {
        let bed = Self::new().await;
        bed.acquire().await.unwrap();
        bed
    }

    async fn acquire(&self) -> Result<OwnLease> {
        let config = NetworkConfig::parse(NETWORK).unwrap();
        self.manager.acquire(&config, &attrs("192.168.0.1"), &Traces::default()).await
    }
}

fn manager(dir: &TempDir, change: impl FnOnce(&mut KubeOptions)) -> KubeManager {
    let mut options = KubeOptions {
        api_url: None,
        kubeconfig: None,
        annotation_prefix: "flannel.alpha.coreos.com".to_owned(),
        net_config: dir.path().join("net-conf.json"),
        clear_network_unavailable: true,
        node: NodeName::Given("own".to_owned()),
    };
    change(&mut options);
    KubeManager::new(options).unwrap()
}

fn attrs(ip: &str) -> LeaseAttrs {
    let json = format!(r#"{{"PublicIP":"{ip}","BackendType":"vxlan","BackendData":{DATA}}}"#);
    serde_json::from_str(&json).unwrap()
}

/// A Node with the podCIDR 10.244.`n`.0/24, without annotations.
fn node(name: &str, n: usize) -> Value {
    let cidr = format!("10.244.{n}.0/24");
    json!({
        "kind": "Node",
        "metadata": { "name": name, "creationTimestamp": "2021-03-04T05:06:07Z", "annotations": {} },
        "spec": { "podCIDR": cidr, "podCIDRs": [cidr] },
        "status": { "conditions": [{ "type": "Ready", "lastHeartbeatTime": "2021-03-04T05:06:07Z" }] },
    })
}

/// A Node on which flannel runs with the address 192.168.1.`n`.
fn flannel_node(name: &str, n: usize) -> Value {
    let mut node = node(name, n);
    for (annotation, value) in [
        ("kube-subnet-manager", "true"),
        ("backend-type", "vxlan"),
        ("backend-data", DATA),
        ("public-ip", &format!("192.168.1.{n}")),
    ] {
        node["metadata"]["annotations"][format!("flannel.alpha.coreos.com/{annotation}")] = value.into();
    }
    node
}
