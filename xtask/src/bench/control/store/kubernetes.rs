//! Leases as annotated Nodes of a kube-apiserver.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use flannel_tests::kubernetes::{ApiServer, Binaries, Forwarder, KubeStore};
use flannel_tests::{Cluster, Datastore, eventually};
use serde_json::{Value, json};

use super::{Crowd, network};
use crate::bench::crowd::{Backend, Lease};

const NODES: &str = "/api/v1/nodes";
/// The podCIDR of the node that is measured. The others have 10.1.0.0/24 and those behind it.
const OWN: &str = "10.0.1.0/24";
/// Limit until an event has come.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests at the same time while Nodes are written.
const WRITERS: u32 = 8;
/// Images in the status of a Node. A kubelet reports up to 50.
const IMAGES: u32 = 20;

/// The Nodes of an API server of its own.
pub(super) struct Nodes(KubeStore);

impl Nodes {
    /// Starts an API server with this many Nodes besides the own one.
    pub(super) fn start(
        cluster: &Cluster,
        binaries: &Binaries,
        backend: Backend,
        leases: u32,
    ) -> Result<Self> {
        let store = cluster.kube_store_at(&Arc::new(ApiServer::start_with(binaries)?))?;
        store.configure(&network(backend))?;
        let own = cluster.nodes().first().context("no node")?;
        store.add_node(own.name(), &[OWN])?;
        let nodes = Self(store);
        nodes.fill(backend, leases)?;
        Ok(nodes)
    }

    fn fill(&self, backend: Backend, leases: u32) -> Result<()> {
        let write = |first: u32| {
            let numbers = (first..leases).step_by(WRITERS as usize);
            numbers.map(|number| Lease::new(backend, number)).try_for_each(|lease| self.create(&lease, true))
        };
        thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS).map(|first| scope.spawn(move || write(first))).collect();
            let ended = writers.into_iter().map(|writer| {
                writer.join().map_err(|_| anyhow!("a thread that writes Nodes panicked")).flatten()
            });
            ended.collect::<Vec<_>>().into_iter().collect()
        })
    }

    /// Creates a Node as its kubelet registers it, with what its agent writes or without.
    fn create(&self, lease: &Lease, annotated: bool) -> Result<()> {
        let annotations = if annotated { self.annotations(lease) } else { json!({}) };
        let pod_cidr = format!("{}/24", lease.subnet);
        let node = json!({
            "metadata": {"name": self.name(lease), "annotations": annotations},
            "spec": {"podCIDR": pod_cidr, "podCIDRs": [pod_cidr]},
            "status": status(lease),
        });
        self.0.client().create(NODES, &node).map(drop)
    }

    fn annotations(&self, Lease { node, backend, data, .. }: &Lease) -> Value {
        json!({
            self.0.annotation("backend-data"): data.as_deref().unwrap_or("null"),
            self.0.annotation("backend-type"): backend,
            self.0.annotation("kube-subnet-manager"): "true",
            self.0.annotation("public-ip"): node.to_string(),
        })
    }

    fn name(&self, lease: &Lease) -> String {
        self.0.name_of(&lease.subnet.to_string())
    }
}

impl Crowd for Nodes {
    fn datastore(&self) -> &dyn Datastore {
        &self.0
    }

    /// Waits until the event has come to the agent, so that it is not taken for the next one.
    fn prepare(&self, lease: &Lease) -> Result<()> {
        self.0.forwarder().forget_answer();
        self.create(lease, false)?;
        eventually("the new Node's event has come", PATIENCE, || {
            self.0.forwarder().answered().map(drop).context("not yet")
        })
    }

    fn join(&self, lease: &Lease) -> Result<()> {
        let change = json!({"metadata": {"annotations": self.annotations(lease)}});
        self.0.client().patch(&format!("{NODES}/{}", self.name(lease)), &change).map(drop)
    }

    fn leave(&self, lease: &Lease) -> Result<()> {
        self.0.client().delete_node(&self.name(lease))
    }

    fn events(&self) -> Option<&Forwarder> {
        Some(self.0.forwarder())
    }
}

/// Returns what a kubelet reports, as long as it is on a node that has run pods for a while.
fn status(lease: &Lease) -> Value {
    let image = |number: u32| {
        let name = format!("registry.example.com/team/service-{number}");
        let digest = format!("{number:064x}");
        json!({
            "names": [format!("{name}@sha256:{digest}"), format!("{name}:v1.{number}.0")],
            "sizeBytes": 50_000_000 + u64::from(number),
        })
    };
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({
            "type": kind, "status": status, "reason": reason,
            "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z",
        })
    };
    json!({
        "addresses": [{"type": "InternalIP", "address": lease.node.to_string()}],
        "capacity": {"cpu": "8", "memory": "32768000Ki", "pods": "110"},
        "allocatable": {"cpu": "8", "memory": "32665600Ki", "pods": "110"},
        "conditions": [
            condition("NetworkUnavailable", "False", "FlannelIsUp"),
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID"),
            condition("Ready", "True", "KubeletReady"),
        ],
        "images": (0..IMAGES).map(image).collect::<Vec<_>>(),
    })
}
