//! This node's own Node: reads it, writes flannel's annotations and the condition.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::OnceCell;

use super::NodeName;
use super::annotations::{self, Prefix};
use super::api::{Api, ApiError, Call, Content, timestamp};
use super::node::{NodeView, Object};
use crate::lease::entry::LeaseAttrs;

/// The API server, as far as flannel uses it.
pub(super) struct KubeStore {
    pub api: Api,
    pub prefix: Prefix,
    name: NodeName,
    known_name: OnceCell<Arc<str>>,
    /// The API server refuses to send all Nodes in a watch.
    pages: AtomicBool,
}

/// A Node at a version.
pub(super) struct Versioned {
    pub view: NodeView,
    pub version: String,
}

impl KubeStore {
    pub(super) fn new(api: Api, prefix: Prefix, name: NodeName) -> Self {
        Self { api, prefix, name, known_name: OnceCell::new(), pages: AtomicBool::new(false) }
    }

    /// Returns whether to ask for all Nodes in a watch.
    pub(super) fn streams_lists(&self) -> bool {
        !self.pages.load(Ordering::Relaxed)
    }

    /// Asks for lists in pages from now on.
    pub(super) fn lists_in_pages(&self) {
        self.pages.store(true, Ordering::Relaxed);
    }

    /// Returns the name of this node's Node.
    pub(super) async fn node_name(&self) -> Result<Arc<str>> {
        let name = self.known_name.get_or_try_init(async || match &self.name {
            NodeName::Given(name) => Ok(Arc::from(name.as_str())),
            NodeName::OfPod { namespace, name } => self.node_of_pod(namespace, name).await,
        });
        name.await.cloned()
    }

    async fn node_of_pod(&self, namespace: &str, name: &str) -> Result<Arc<str>> {
        #[derive(Deserialize)]
        struct Pod {
            spec: PodSpec,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct PodSpec {
            #[serde(default)]
            node_name: String,
        }
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
        let pod = self.api.call(&Call::get("get", "pods", path)).await?;
        let pod: Pod =
            serde_json::from_slice(&pod).with_context(|| format!("reading the pod {namespace}/{name}"))?;
        let node = pod.spec.node_name;
        ensure!(
            !node.is_empty(),
            "the pod {namespace}/{name} is on no node; set NODE_NAME to this node's name"
        );
        Ok(Arc::from(node))
    }

    /// Reads this node's Node; `None` if there is none.
    pub(super) async fn own_node(&self) -> Result<Option<Versioned>> {
        let path = format!("/api/v1/nodes/{}", self.node_name().await?);
        match self.api.call(&Call::get("get", "nodes", path)).await {
            Ok(answer) => self.versioned(&answer).map(Some),
            Err(error) if error.code() == Some(404) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes flannel's annotations where the Node has others. Returns the Node after that.
    pub(super) async fn annotate(&self, node: Versioned, attrs: &LeaseAttrs) -> Result<Versioned> {
        let desired = annotations::desired(attrs);
        let Some(patch) = annotations::patch(&self.prefix, |name| node.view.annotation(name), &desired)
        else {
            return Ok(node);
        };
        let answer = self.patch_status(&node.view.name, &patch).await?;
        self.versioned(&answer)
    }

    /// Says on the Node that packets can flow.
    pub(super) async fn clear_network_unavailable(&self) -> Result<()> {
        let now = timestamp();
        let condition = json!({
            "type": "NetworkUnavailable",
            "status": "False",
            "reason": "FlannelIsUp",
            "message": "Flannel is running on this node",
            "lastTransitionTime": now,
            "lastHeartbeatTime": now,
        });
        let patch = json!({ "status": { "conditions": [condition] } }).to_string();
        self.patch_status(&self.node_name().await?, &patch).await?;
        Ok(())
    }

    async fn patch_status(&self, node: &str, patch: &str) -> Result<Vec<u8>, ApiError> {
        let path = format!("/api/v1/nodes/{node}/status");
        let call = Call { verb: "patch", resource: "nodes/status", path, body: Some(Content::Patch(patch)) };
        self.api.call(&call).await
    }

    fn versioned(&self, answer: &[u8]) -> Result<Versioned> {
        let object: Object<'_> = serde_json::from_slice(answer)
            .map_err(|error| anyhow!("the API server's Node cannot be read: {error}"))?;
        let version = object.metadata.resource_version.to_string();
        Ok(Versioned { view: NodeView::new(&object, &self.prefix), version })
    }
}
